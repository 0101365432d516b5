//! A perfect hash table of the merges: every look-up reads one slot.
//!
//! In a table with open addressing, more than a third of the look-ups, those of pairs without a merge,
//! would end in an occupied slot and go on from there. Which ones is unpredictable, so the processor would
//! guess wrong.

use std::hash::{BuildHasher, RandomState};

use super::merge_table::{ID_BITS, NONE};
use crate::util::memory::prefetch;
use crate::vocab::Pair;

/// The merges of a [`MergeTable`](super::merge_table::MergeTable).
///
/// The pairs are divided into small groups. Each group has a multiplier by which all of its pairs come
/// into slots that no other pair has. Source: Belazzougui, Botelho and Dietzfelbinger, "Hash, displace,
/// and compress", 2009.
#[derive(Debug)]
pub(super) struct PairTable {
    /// For each group of pairs, its multiplier / 2.
    groups: Vec<u16>,
    /// From the highest bits on: the left symbol, the right one, and the one that they merge into.
    slots: Vec<u64>,
    /// An odd random number, so that nobody can construct pairs that collide.
    factor: u64,
}

/// The slot in which a pair is, if it has a merge.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct PairSlot(u32);

const FREE: u64 = u64::MAX;

impl PairTable {
    /// Create the table of `merges`, each with the symbol that it makes.
    pub(super) fn new(merges: &[(Pair, u32)]) -> Self {
        loop {
            // One attempt in practice: nearly any factor will do.
            if let Some(table) = Self::with_factor(merges, RandomState::new().hash_one(0) | 1) {
                return table;
            }
        }
    }

    fn with_factor(merges: &[(Pair, u32)], factor: u64) -> Option<Self> {
        let n_slots = (merges.len() * 4 / 3).next_power_of_two().max(64);
        let mut table = PairTable {
            groups: vec![0; n_slots / 4],
            slots: vec![FREE; n_slots],
            factor,
        };
        let mut members = vec![Vec::new(); table.groups.len()];
        for &(pair, made) in merges {
            let key = key(pair);
            members[table.group_of(key)].push(key << ID_BITS | u64::from(made));
        }
        let mut order: Vec<usize> = (0..members.len()).collect();
        order.sort_by_key(|&group| std::cmp::Reverse(members[group].len()));
        let mut taken = Vec::new();
        for group in order {
            let fits = |&multiplier: &u16| {
                taken.clear();
                members[group].iter().all(|&member| {
                    let slot = table.slot_by(member >> ID_BITS, multiplier);
                    let is_free = table.slots[slot] == FREE && !taken.contains(&slot);
                    taken.push(slot);
                    is_free
                })
            };
            table.groups[group] = (0..=u16::MAX).find(fits)?;
            for (&slot, &member) in taken.iter().zip(&members[group]) {
                table.slots[slot] = member;
            }
        }
        Some(table)
    }

    /// The slot of a pair, which is prefetched.
    #[inline(always)]
    pub(super) fn prefetch(&self, pair: Pair) -> PairSlot {
        let key = key(pair);
        let slot = self.slot_by(key, self.groups[self.group_of(key)]);
        prefetch(&self.slots, slot);
        PairSlot(slot as u32)
    }

    /// The symbol that a pair, whose slot this is, merges into, or [`NONE`].
    #[inline(always)]
    pub(super) fn get(&self, pair: Pair, slot: PairSlot) -> u32 {
        let slot = self.slots[slot.0 as usize & (self.slots.len() - 1)];
        let id = slot as u32 & ((1 << ID_BITS) - 1);
        if slot >> ID_BITS == key(pair) {
            id
        } else {
            NONE
        }
    }

    #[inline(always)]
    fn group_of(&self, key: u64) -> usize {
        let shift = self.groups.len().leading_zeros() + 1;
        (key.wrapping_mul(self.factor) >> shift) as usize & (self.groups.len() - 1)
    }

    #[inline(always)]
    fn slot_by(&self, key: u64, multiplier: u16) -> usize {
        let product = key.wrapping_mul(self.factor);
        let mixed = product ^ product >> 32;
        let shift = self.slots.len().leading_zeros() + 1;
        let product = mixed
            .wrapping_mul(self.factor)
            .wrapping_mul(2 * u64::from(multiplier) + 1);
        (product >> shift) as usize & (self.slots.len() - 1)
    }
}

#[inline(always)]
fn key((left, right): Pair) -> u64 {
    u64::from(left) << ID_BITS | u64::from(right)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_has_all_merges_and_no_others() {
        for n in [0, 1, 48, 49, 3000] {
            // Pairs whose parts have few different bits.
            let pair = |i: u32| ((i % 60) << 15, i / 60);
            let merges: Vec<_> = (0..n).map(|i| (pair(i), 256 + i)).collect();
            let table = PairTable::new(&merges);
            assert!(table.slots.len() >= 64 && table.slots.len() <= 64.max(3 * merges.len()));
            for i in 0..n + 1000 {
                let expected = if i < n { 256 + i } else { NONE };
                let slot = table.prefetch(pair(i));
                assert_eq!(table.get(pair(i), slot), expected, "{i} of {n}");
            }
        }
    }
}
