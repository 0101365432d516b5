//! What each pair of ids merges into.

use std::hash::{BuildHasher, RandomState};

use crate::train::Pair;

/// No merge. No id is so large.
pub const NONE: u32 = u32::MAX;

/// The merges of a vocabulary. A merge's rank is the id it makes: lower goes first.
#[derive(Debug, Clone)]
pub struct Merges {
    /// By `left * 256 + right`: the pairs of ids below 256, which are single bytes in most
    /// vocabularies, and what merging begins with. [`NONE`] where there is no merge.
    low: Vec<u32>,
    /// The others, with open addressing and linear probing, at most half full.
    slots: Vec<Slot>,
    n_in_slots: usize,
    /// Odd, and different in each table, so that nobody can make up pairs that collide.
    factor: u64,
}

/// From the highest bits on: left id, right id, and the id that they merge into. Small, so that more of
/// the table is near the processor: looking a pair up is what merging waits for.
type Slot = u64;

/// The bits of an id.
pub const ID_BITS: u32 = 21;

const FREE: Slot = Slot::MAX;

fn key((left, right): Pair) -> u64 {
    u64::from(left) << ID_BITS | u64::from(right)
}

/// Of a free slot, all bits set.
fn id_in(slot: Slot) -> u32 {
    slot as u32 & ((1 << ID_BITS) - 1)
}

impl Default for Merges {
    fn default() -> Self {
        Merges {
            low: vec![NONE; 1 << 16],
            slots: vec![FREE; 64],
            n_in_slots: 0,
            factor: RandomState::new().hash_one(0) | 1,
        }
    }
}

impl Merges {
    /// What a pair merges into, or [`NONE`].
    #[inline]
    pub fn get(&self, left: u32, right: u32) -> u32 {
        if left | right < 256 {
            return self.low[(left << 8 | right) as usize];
        }
        let key = key((left, right));
        let home = self.slots[self.home(key)];
        // Nobody can foresee whether there is such a merge. So what a free slot holds is made into
        // NONE without a branch, and one look is nearly always enough.
        let slot = if (home >> ID_BITS == key) | (home == FREE) {
            home
        } else {
            self.slots[self.slot_of(key)]
        };
        if slot == FREE { NONE } else { id_in(slot) }
    }

    /// Let a pair merge into `id`.
    pub fn insert(&mut self, (left, right): Pair, id: u32) {
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

    /// All merges, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = (Pair, u32)> + '_ {
        let low = (0..).zip(&self.low);
        let low = low.map(|(i, &id)| ((i >> 8, i & 0xff), id));
        let low = low.filter(|&(_, id)| id != NONE);
        let others = self.slots.iter().filter(|&&slot| slot != FREE);
        low.chain(others.map(|&slot| {
            let right = id_in(slot >> ID_BITS);
            (((slot >> (2 * ID_BITS)) as u32, right), id_in(slot))
        }))
    }

    #[inline]
    fn home(&self, key: u64) -> usize {
        // The highest bits of a product depend on all bits of the factor.
        let shift = self.slots.len().leading_zeros() + 1;
        (key.wrapping_mul(self.factor) >> shift) as usize & (self.slots.len() - 1)
    }

    /// The slot that has the key, or the free one where it belongs.
    fn slot_of(&self, key: u64) -> usize {
        let mut slot = self.home(key);
        while self.slots[slot] >> ID_BITS != key && self.slots[slot] != FREE {
            slot = (slot + 1) & (self.slots.len() - 1);
        }
        slot
    }
}
