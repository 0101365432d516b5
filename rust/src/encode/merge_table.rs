//! A hash table of merges: from a pair of ids to the id that they merge into.

use std::hash::{BuildHasher, RandomState};

use crate::vocab::Pair;

/// The id that stands for "no merge". Real ids are smaller.
pub(crate) const NONE: u32 = u32::MAX;

/// The merges of a vocabulary. The rank of a merge is the id that it makes; lower ranks come first.
#[derive(Debug, Clone)]
pub(crate) struct MergeTable {
    /// By `left * 256 + right`: what pairs of ids below 256 merge into, or [`NONE`]. In most
    /// vocabularies these ids are single bytes, which merging begins with.
    low: Vec<u32>,
    /// All other merges, with open addressing and linear probing, at most half full.
    slots: Vec<Slot>,
    n_in_slots: usize,
    /// An odd random number, so that nobody can construct pairs that collide.
    factor: u64,
}

/// From the highest bits on: the left id, the right id, and the id that they merge into.
///
/// Merging spends most of its time waiting for this table. Slots of 64 bits keep more of it in the
/// processor's cache.
type Slot = u64;

/// The number of bits of an id.
pub(crate) const ID_BITS: u32 = 21;

const FREE: Slot = Slot::MAX;

fn key((left, right): Pair) -> u64 {
    u64::from(left) << ID_BITS | u64::from(right)
}

/// The id that a slot holds. Of a free slot, all its bits are set.
fn id_in(slot: Slot) -> u32 {
    slot as u32 & ((1 << ID_BITS) - 1)
}

impl Default for MergeTable {
    fn default() -> Self {
        MergeTable {
            low: vec![NONE; 1 << 16],
            slots: vec![FREE; 64],
            n_in_slots: 0,
            factor: RandomState::new().hash_one(0) | 1,
        }
    }
}

impl MergeTable {
    /// Return what a pair merges into, or [`NONE`].
    #[inline]
    pub(crate) fn get(&self, left: u32, right: u32) -> u32 {
        if left | right < 256 {
            return self.low[(left << 8 | right) as usize];
        }
        let key = key((left, right));
        let home = self.slots[self.home(key)];
        // Whether there is such a merge is unpredictable. So a free slot turns into NONE without a
        // branch. The first slot is nearly always the right one.
        let slot = if (home >> ID_BITS == key) | (home == FREE) {
            home
        } else {
            self.slots[self.slot_of(key)]
        };
        if slot == FREE { NONE } else { id_in(slot) }
    }

    /// Add a merge of a pair into `id`.
    pub(crate) fn insert(&mut self, (left, right): Pair, id: u32) {
        if left | right < 256 {
            self.low[(left << 8 | right) as usize] = id;
            return;
        }
        if self.n_in_slots >= self.slots.len() / 2 {
            let larger = vec![FREE; self.slots.len() * 2];
            for slot in std::mem::replace(&mut self.slots, larger) {
                if slot != FREE {
                    let i = self.slot_of(slot >> ID_BITS);
                    self.slots[i] = slot;
                }
            }
        }
        let key = key((left, right));
        let i = self.slot_of(key);
        self.n_in_slots += usize::from(self.slots[i] == FREE);
        self.slots[i] = key << ID_BITS | u64::from(id);
    }

    /// Iterate over all merges, in no particular order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Pair, u32)> + Clone + '_ {
        let low = (0..).zip(&self.low);
        let low = low.map(|(i, &id)| ((i >> 8, i & 0xff), id));
        let low = low.filter(|&(_, id)| id != NONE);
        let others = self.slots.iter().filter(|&&slot| slot != FREE);
        low.chain(others.map(|&slot| {
            let right = id_in(slot >> ID_BITS);
            (((slot >> (2 * ID_BITS)) as u32, right), id_in(slot))
        }))
    }

    /// The slot where the search for `key` begins.
    #[inline]
    fn home(&self, key: u64) -> usize {
        // The highest bits of a product depend on all bits of the factor.
        let shift = self.slots.len().leading_zeros() + 1;
        (key.wrapping_mul(self.factor) >> shift) as usize & (self.slots.len() - 1)
    }

    /// The slot that holds the key, or the free slot where it belongs.
    fn slot_of(&self, key: u64) -> usize {
        let mut slot = self.home(key);
        while self.slots[slot] >> ID_BITS != key && self.slots[slot] != FREE {
            slot = (slot + 1) & (self.slots.len() - 1);
        }
        slot
    }
}
