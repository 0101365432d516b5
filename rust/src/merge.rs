//! The merge loop: single tokens of one pre-token in, what BPE makes of them out.
//!
//! The definition: as long as some adjacent pair of tokens is a merge, apply the merge of lowest rank
//! (the leftmost of them if it occurs more than once).

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::atomic::{AtomicBool, Ordering};

use rustc_hash::FxHashMap;

use crate::error::Error;

/// What each pair of ids merges into. A merge's rank is the id it makes: lower goes first.
pub type Merges = FxHashMap<(u32, u32), u32>;

/// Up to this many tokens the shortest way is to look for the lowest rank again and again.
const FEW: usize = 48;

/// The memory of the merge loop, used again for each pre-token.
#[derive(Debug, Default)]
pub struct Merger {
    ids: Vec<u32>,
    ranks: Vec<u32>,
    next: Vec<u32>,
    previous: Vec<u32>,
    heap: BinaryHeap<Reverse<(u32, u32)>>,
}

/// As an id: merged into the token on the left. As a rank: no merge. No token has this id.
const NONE: u32 = u32::MAX;

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
        let ids = &mut self.ids;
        let rank = |left: u32, right: u32| *merges.get(&(left, right)).unwrap_or(&NONE);
        self.ranks.clear();
        self.ranks
            .extend(ids.windows(2).map(|pair| rank(pair[0], pair[1])));
        let ranks = &mut self.ranks;
        while let Some((i, &lowest)) = ranks.iter().enumerate().min_by_key(|&(_, &rank)| rank) {
            if lowest == NONE {
                break;
            }
            ids[i] = lowest;
            ids.remove(i + 1);
            ranks.remove(i);
            if i < ranks.len() {
                ranks[i] = rank(ids[i], ids[i + 1]);
            }
            if i > 0 {
                ranks[i - 1] = rank(ids[i - 1], ids[i]);
            }
        }
    }

    /// The same in O(n log n): a linked list of tokens, each at the position of its first byte, and a
    /// heap of the merges that were possible when last looked at, by rank and then position.
    fn merge_many(&mut self, merges: &Merges, stop: &AtomicBool) -> Result<(), Error> {
        let end = u32::try_from(self.ids.len())
            .map_err(|_| Error::TooLong("a pre-token is longer than 4 GiB".into()))?;
        self.next.clear();
        self.next.extend(1..=end);
        self.previous.clear();
        self.previous.extend((0..end).map(|i| i.wrapping_sub(1)));
        // All that are possible at first become a heap at once, which is linear.
        let mut possible = std::mem::take(&mut self.heap).into_vec();
        possible.clear();
        for position in 0..end {
            look(position, stop)?;
            let rank = self.rank_at(merges, position);
            possible.extend(rank.map(|rank| Reverse((rank, position))));
        }
        self.heap = BinaryHeap::from(possible);
        let mut n_merges = 0u32;
        while let Some(Reverse((rank, left))) = self.heap.pop() {
            look(n_merges, stop)?;
            n_merges = n_merges.wrapping_add(1);
            // The tokens may have changed since this merge was offered. Two different pairs never
            // make the same id, so an equal rank means that the same pair still stands here.
            if self.rank_at(merges, left) == Some(rank) {
                self.apply(merges, left, rank);
            }
        }
        self.ids.retain(|&id| id != NONE);
        Ok(())
    }

    /// The id that the token at `left` and the one after it merge into.
    fn rank_at(&self, merges: &Merges, left: u32) -> Option<u32> {
        let right = *self.next.get(left as usize)?;
        let right_id = *self.ids.get(right as usize)?;
        merges.get(&(self.ids[left as usize], right_id)).copied()
    }

    fn offer(&mut self, merges: &Merges, left: u32) {
        if let Some(rank) = self.rank_at(merges, left) {
            self.heap.push(Reverse((rank, left)));
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

/// Look at the stop flag, at every 2^12th step.
fn look(step: u32, stop: &AtomicBool) -> Result<(), Error> {
    if step.is_multiple_of(1 << 12) && stop.load(Ordering::Relaxed) {
        return Err(Error::Interrupted);
    }
    Ok(())
}
