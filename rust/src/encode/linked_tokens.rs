//! Merging many tokens, as a linked list.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use rustc_hash::FxHashMap;

use super::merge_table::{MergeTable, NONE};
use super::merger::Rules;
use crate::error::Error;

/// A list of positions that is longer than this is freed after use, not kept for reuse.
const MAX_KEPT_POSITIONS: usize = 32;

/// A doubly linked list of tokens, each at the position of its first symbol, and the merges that are
/// possible in it.
#[derive(Debug, Default)]
pub(super) struct LinkedTokens {
    next: Vec<u32>,
    previous: Vec<u32>,
    /// By rank: the positions at which its merge was possible when they were added.
    positions: FxHashMap<u32, Vec<u32>>,
    /// The ranks that have positions, lowest first.
    queue: BinaryHeap<Reverse<u32>>,
}

impl LinkedTokens {
    /// Merge `ids`, which are first symbols, in place and in O(n log n). On return, each token is at the
    /// place of its first symbol, and its other places are [`NONE`].
    pub(super) fn merge(&mut self, rules: Rules<'_>, ids: &mut [u32]) -> Result<(), Error> {
        let end = position(ids.len())?;
        self.next.clear();
        self.next.extend(1..=end);
        self.previous.clear();
        self.previous.extend((0..end).map(|i| i.wrapping_sub(1)));
        if rules.ascending {
            self.merge_rank_by_rank(rules, ids)
        } else {
            self.merge_one_by_one(rules, ids)
        }
    }

    /// Merge if every merge makes only merges of higher rank possible. So the ranks come up in ascending
    /// order, each of them once, with all of its positions.
    fn merge_rank_by_rank(&mut self, rules: Rules<'_>, ids: &mut [u32]) -> Result<(), Error> {
        let Rules {
            merges, context, ..
        } = rules;
        // An interrupted call leaves positions behind.
        for Reverse(rank) in self.queue.drain() {
            self.positions.remove(&rank);
        }
        for (position, _) in (0..).zip(ids.iter()) {
            context.check_at(position)?;
            self.enqueue(merges, ids, position);
        }
        while let Some(Reverse(rank)) = self.queue.pop() {
            let mut positions = self.positions.remove(&rank).unwrap_or_default();
            // Sort from left to right. The positions are a few ascending runs, which this sort exploits.
            positions.sort();
            for (step, left) in (0..).zip(positions.drain(..)) {
                context.check_at(step)?;
                // The tokens may have changed since this position was added. Two different pairs never
                // make the same symbol, so an equal rank means that the same pair is still here.
                if self.rank_at(merges, ids, left) == rank {
                    for changed in self.apply(ids, left, rank) {
                        self.enqueue(merges, ids, changed);
                    }
                }
            }
            if positions.capacity() <= MAX_KEPT_POSITIONS {
                self.positions.insert(rank, positions); // keep the memory for reuse
            }
        }
        Ok(())
    }

    /// Merge if ranks may be in any order: one place after another.
    fn merge_one_by_one(&mut self, rules: Rules<'_>, ids: &mut [u32]) -> Result<(), Error> {
        let Rules {
            merges, context, ..
        } = rules;
        // (rank, position) of each merge that was possible when it was added.
        let queue = &mut BinaryHeap::new();
        let add = |linked: &Self, queue: &mut BinaryHeap<_>, ids: &[u32], left| {
            let rank = linked.rank_at(merges, ids, left);
            if rank != NONE {
                queue.push(Reverse((rank, left)));
            }
        };
        for (position, _) in (0..).zip(ids.iter()) {
            context.check_at(position)?;
            add(self, queue, ids, position);
        }
        let mut step = 0u32;
        while let Some(Reverse((rank, left))) = queue.pop() {
            step = step.wrapping_add(1);
            context.check_at(step)?;
            if self.rank_at(merges, ids, left) == rank {
                for changed in self.apply(ids, left, rank) {
                    add(self, queue, ids, changed);
                }
            }
        }
        Ok(())
    }

    /// Merge the token at `left` and its right neighbour. Return the positions whose merge has changed.
    fn apply(
        &mut self,
        ids: &mut [u32],
        left: u32,
        merged: u32,
    ) -> impl Iterator<Item = u32> + use<> {
        let right = self.next[left as usize];
        let after = self.next[right as usize];
        (ids[left as usize], ids[right as usize]) = (merged, NONE);
        self.next[left as usize] = after;
        if let Some(previous) = self.previous.get_mut(after as usize) {
            *previous = left;
        }
        let before = (left > 0).then(|| self.previous[left as usize]);
        [left].into_iter().chain(before)
    }

    /// Add the merge of the token at `left` and its right neighbour, if there is one.
    fn enqueue(&mut self, merges: &MergeTable, ids: &[u32], left: u32) {
        let rank = self.rank_at(merges, ids, left);
        if rank != NONE {
            let positions = self.positions.entry(rank).or_default();
            if positions.is_empty() {
                self.queue.push(Reverse(rank));
            }
            positions.push(left);
        }
    }

    /// The symbol that the token at `left` and its right neighbour merge into, or [`NONE`].
    fn rank_at(&self, merges: &MergeTable, ids: &[u32], left: u32) -> u32 {
        // A position that was merged into the token to its left has no id any more.
        let left_id = ids[left as usize];
        match ids.get(self.next[left as usize] as usize) {
            Some(&right_id) if left_id != NONE => merges.get(left_id, right_id),
            _ => NONE,
        }
    }
}

/// Convert a position within a block, which is nearly always small.
fn position(n: usize) -> Result<u32, Error> {
    u32::try_from(n).map_err(|_| {
        Error::TooLong(format!(
            "{n} bytes or characters of one pre-token have to be merged at once, expected less than 4 GiB: give \
             shorter texts, or a pattern that cuts them"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_of_4_gib_is_refused() {
        assert_eq!(position(u32::MAX as usize), Ok(u32::MAX));
        assert!(matches!(position(1 << 32), Err(Error::TooLong(_))));
    }
}
