//! The merge loop: single tokens of one pre-token in, what BPE makes of them out.
//!
//! The definition: as long as some adjacent pair of tokens is a merge, apply the merge of lowest rank
//! (the leftmost of them if it occurs more than once).

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::atomic::AtomicBool;

use rustc_hash::FxHashMap;

use crate::error::Error;
use crate::merges::{Merges, NONE};
use crate::stop::check_at;

/// Up to this many tokens the shortest way is to look for the lowest rank again and again.
const FEW: usize = 48;

/// The memory of the merge loop, used again for each pre-token.
#[derive(Debug, Default)]
pub struct Merger {
    ids: Vec<u32>,
    next: Vec<u32>,
    previous: Vec<u32>,
    /// The ranks that have positions, lowest first.
    queue: BinaryHeap<Reverse<u32>>,
    positions: FxHashMap<u32, Vec<u32>>,
}

impl Merger {
    /// The tokens that `merges` make of the tokens `ids`.
    ///
    /// Fails if they are more than 32 bits can count, or when `stop` becomes true.
    pub fn merge(
        &mut self,
        merges: &Merges,
        ids: impl Iterator<Item = u32>,
        stop: &AtomicBool,
    ) -> Result<&[u32], Error> {
        self.ids.clear();
        self.ids.extend(ids);
        if self.ids.len() <= FEW {
            self.merge_few(merges);
        } else {
            self.merge_many(merges, stop)?;
        }
        Ok(&self.ids)
    }

    /// The definition, with the ranks of all pairs kept: at most FEW * FEW steps.
    fn merge_few(&mut self, merges: &Merges) {
        let n = self.ids.len();
        let ids = &mut self.ids[..];
        // The merge at each position that still has a token, as rank * 256 + position: the least of
        // these numbers is the merge of lowest rank, and of those the leftmost.
        let mut ranks = [NONE; FEW];
        // The positions of the next and of the previous token.
        let mut next: [u8; FEW] = std::array::from_fn(|i| i as u8 + 1);
        let mut previous: [u8; FEW] = std::array::from_fn(|i| (i as u8).wrapping_sub(1));
        let rank = |left: u32, right: u32, position: usize| match merges.get(left, right) {
            NONE => NONE,
            rank => rank << 8 | position as u32,
        };
        for (i, pair) in ids.windows(2).enumerate() {
            ranks[i] = rank(pair[0], pair[1], i);
        }
        loop {
            let lowest = ranks[..n]
                .iter()
                .fold(NONE, |lowest, &rank| lowest.min(rank));
            if lowest == NONE {
                break;
            }
            let left = (lowest & 0xff) as usize;
            let right = usize::from(next[left]);
            let after = usize::from(next[right]);
            (ids[left], ids[right]) = (lowest >> 8, NONE);
            ranks[right] = NONE;
            next[left] = after as u8;
            ranks[left] = NONE;
            if after < n {
                previous[after] = left as u8;
                ranks[left] = rank(ids[left], ids[after], left);
            }
            if left > 0 {
                let before = usize::from(previous[left]);
                ranks[before] = rank(ids[before], ids[left], before);
            }
        }
        self.ids.retain(|&id| id != NONE);
    }

    /// The same in O(n log n): a linked list of tokens, each at the position of its first byte, and for
    /// each rank the positions at which its merge was possible when last looked at.
    ///
    /// A merge's rank is the id it makes, and the ids that it is made of are smaller. So what becomes
    /// possible by a merge ranks higher than that: the ranks come up in ascending order, each once, and
    /// all the positions of a rank are known then.
    fn merge_many(&mut self, merges: &Merges, stop: &AtomicBool) -> Result<(), Error> {
        let end = u32::try_from(self.ids.len())
            .map_err(|_| Error::TooLong("a pre-token is longer than 4 GiB".into()))?;
        self.next.clear();
        self.next.extend(1..=end);
        self.previous.clear();
        self.previous.extend((0..end).map(|i| i.wrapping_sub(1)));
        self.queue.clear();
        self.positions.clear();
        for position in 0..end {
            check_at(position, stop)?;
            self.offer(merges, position);
        }
        while let Some(Reverse(rank)) = self.queue.pop() {
            let mut positions = self.positions.remove(&rank).unwrap_or_default();
            // From left to right. They came in a few ascending runs, which this sort makes use of.
            positions.sort();
            for (step, left) in (0..).zip(positions) {
                check_at(step, stop)?;
                // The tokens may have changed since this merge was offered. Two different pairs never
                // make the same id, so an equal rank means that the same pair still stands here.
                if self.rank_at(merges, left) == rank {
                    self.apply(merges, left, rank);
                }
            }
        }
        self.ids.retain(|&id| id != NONE);
        Ok(())
    }

    /// The id that the token at `left` and the one after it merge into, or NONE.
    fn rank_at(&self, merges: &Merges, left: u32) -> u32 {
        let right = self.next.get(left as usize).map(|&right| right as usize);
        match right.and_then(|right| self.ids.get(right)) {
            // A position that was merged into the token on its left has no id any more.
            Some(&right_id) if self.ids[left as usize] != NONE => {
                merges.get(self.ids[left as usize], right_id)
            }
            _ => NONE,
        }
    }

    fn offer(&mut self, merges: &Merges, left: u32) {
        let rank = self.rank_at(merges, left);
        if rank != NONE {
            let positions = self.positions.entry(rank).or_default();
            if positions.is_empty() {
                self.queue.push(Reverse(rank));
            }
            positions.push(left);
        }
    }

    fn apply(&mut self, merges: &Merges, left: u32, merged_id: u32) {
        let right = self.next[left as usize];
        let after = self.next[right as usize];
        self.ids[left as usize] = merged_id;
        self.ids[right as usize] = NONE;
        self.next[left as usize] = after;
        if let Some(previous) = self.previous.get_mut(after as usize) {
            *previous = left;
        }
        self.offer(merges, left);
        if left > 0 {
            self.offer(merges, self.previous[left as usize]);
        }
    }
}
