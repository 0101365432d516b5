//! The changes that one merge makes to the counts of other pairs.

use std::cmp::Reverse;
use std::collections::hash_map::Entry;

use super::merge_round::{PairTable, TrackedPair, add_word};
use crate::vocab::Pair;

/// The changes on one side of the merged pair, summed by the neighbouring token on that side.
#[derive(Default)]
pub(super) struct PairDeltas {
    /// By neighbour: how often its pair with the old token has disappeared.
    lost: Vec<u64>,
    /// By neighbour: how often its pair with the new token has appeared.
    gained: Vec<u64>,
    /// The neighbours with a sum above 0.
    neighbours: Vec<u32>,
    /// The neighbour and the word of each new pair.
    new_pairs: Vec<(u32, u32)>,
    /// By neighbour: the words of its new pair, while [`PairDeltas::apply`] collects them.
    words: Vec<Vec<u32>>,
}

impl PairDeltas {
    pub(super) fn lose(&mut self, neighbour: u32, count: u64) {
        self.touch(neighbour);
        self.lost[neighbour as usize] += count;
    }

    pub(super) fn gain(&mut self, neighbour: u32, count: u64, word: u32) {
        self.touch(neighbour);
        self.gained[neighbour as usize] += count;
        self.new_pairs.push((neighbour, word));
    }

    fn touch(&mut self, neighbour: u32) {
        let i = neighbour as usize;
        if i >= self.lost.len() {
            self.lost.resize(2 * i + 1, 0);
            self.gained.resize(2 * i + 1, 0);
            self.words.resize(2 * i + 1, Vec::new());
        }
        if self.lost[i] == 0 && self.gained[i] == 0 {
            self.neighbours.push(neighbour);
        }
    }

    /// Apply the changes to the table of pairs and clear them. `pairs_of` returns the old and the new
    /// pair of a neighbour.
    pub(super) fn apply(&mut self, pairs: &mut PairTable, pairs_of: impl Fn(u32) -> (Pair, Pair)) {
        let threshold = pairs.threshold;
        for (neighbour, word) in self.new_pairs.drain(..) {
            if self.gained[neighbour as usize] >= threshold {
                add_word(&mut self.words[neighbour as usize], word);
            }
        }
        for neighbour in self.neighbours.drain(..) {
            let (old_pair, new_pair) = pairs_of(neighbour);
            let lost = std::mem::take(&mut self.lost[neighbour as usize]);
            if let Entry::Occupied(mut old) = pairs.tracked.entry(old_pair) {
                old.get_mut().count -= lost;
                if old.get().count < threshold {
                    old.remove();
                }
            }
            let count = std::mem::take(&mut self.gained[neighbour as usize]);
            if count >= threshold {
                let words = std::mem::take(&mut self.words[neighbour as usize]);
                pairs.tracked.insert(new_pair, TrackedPair { count, words });
                pairs.queue.push((count, Reverse(new_pair)));
            }
        }
    }
}
