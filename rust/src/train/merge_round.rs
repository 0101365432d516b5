//! One round of merging: all merges of pairs that reach a threshold.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use rustc_hash::FxHashMap;

use super::pair_bounds::PairBounds;
use super::pair_deltas::PairDeltas;
use super::words::Words;
use crate::error::Error;
use crate::util::context::Context;
use crate::util::parallel::for_each;
use crate::vocab::Pair;

/// How many words ahead of the current one to prefetch.
const PREFETCH_DISTANCE: usize = 8;

/// A pair whose count is kept up to date.
#[derive(Clone, Default)]
pub(super) struct TrackedPair {
    /// How often the pair occurs: the sum over the words that have it of their counts.
    pub(super) count: u64,
    /// The starts of the words that have the pair, and of some that no longer have it.
    pub(super) words: Vec<u32>,
}

/// Add `word` to the words of a pair, unless it is there already. All occurrences of a pair in one word
/// are added in a row.
#[inline]
pub(super) fn add_word(words: &mut Vec<u32>, word: u32) {
    if words.last() != Some(&word) {
        words.push(word);
    }
}

/// The pairs that occur at least `threshold` times.
pub(super) struct PairTable {
    pub(super) threshold: u64,
    pub(super) tracked: FxHashMap<Pair, TrackedPair>,
    /// Highest count first, then smallest pair. A count may be out of date, but never too small.
    pub(super) queue: BinaryHeap<(u64, Reverse<Pair>)>,
}

/// The pairs that occur at least `threshold` times, and the memory for merging them.
pub(super) struct MergeRound<'a> {
    context: &'a Context,
    pairs: PairTable,
    /// The changes that the current merge makes to pairs with its left and with its right neighbours.
    left: PairDeltas,
    right: PairDeltas,
}

impl<'a> MergeRound<'a> {
    pub(super) fn new(
        context: &'a Context,
        words: &Words,
        bounds: &PairBounds,
        threshold: u64,
    ) -> Result<Self, Error> {
        // Each thread reads all pairs and takes its share of them, so that the words of a pair come in
        // order.
        let n_threads = context.n_threads();
        let may_reach = bounds.reaching(threshold);
        let mut shares = vec![FxHashMap::<Pair, TrackedPair>::default(); n_threads];
        for_each(context, &mut shares, n_threads, |tracked, i| {
            let mine = |pair| PairBounds::share(pair, n_threads) == i;
            let is_wanted = |pair| may_reach.has(pair) & mine(pair);
            words.for_each_pair(context, (0, 1), is_wanted, |pair, word, count| {
                let tracked = tracked.entry(pair).or_default();
                tracked.count += count;
                add_word(&mut tracked.words, word);
            })?;
            tracked.retain(|_, tracked| tracked.count >= threshold);
            Ok(())
        })?;
        let tracked: FxHashMap<Pair, TrackedPair> = shares.into_iter().flatten().collect();
        let queue = tracked
            .iter()
            .map(|(&pair, tracked)| (tracked.count, Reverse(pair)))
            .collect();
        Ok(MergeRound {
            context,
            pairs: PairTable {
                threshold,
                tracked,
                queue,
            },
            left: PairDeltas::default(),
            right: PairDeltas::default(),
        })
    }

    /// Take the next pair to merge out of the queue; None if the round is over.
    pub(super) fn most_frequent(&mut self) -> Option<Pair> {
        let PairTable { tracked, queue, .. } = &mut self.pairs;
        while let Some((count, Reverse(pair))) = queue.pop() {
            match tracked.get(&pair) {
                Some(tracked) if tracked.count == count => return Some(pair),
                Some(tracked) => queue.push((tracked.count, Reverse(pair))),
                None => {}
            }
        }
        None
    }

    /// Replace `pair` by `new_id` everywhere, from left to right.
    pub(super) fn merge(
        &mut self,
        words: &mut Words,
        pair: Pair,
        new_id: u32,
    ) -> Result<(), Error> {
        let starts = self
            .pairs
            .tracked
            .remove(&pair)
            .map_or(Vec::new(), |tracked| tracked.words);
        for (i, &start) in (0..).zip(&starts) {
            self.context.check_at(i)?;
            if let Some(&ahead) = starts.get(i as usize + PREFETCH_DISTANCE) {
                words.prefetch(ahead);
            }
            let (n_tokens, count, tokens) = words.get_mut(start);
            *n_tokens = self.merge_word(tokens, pair, new_id, (start, count))? as u32;
        }
        self.left
            .apply(&mut self.pairs, |x| ((x, pair.0), (x, new_id)));
        self.right
            .apply(&mut self.pairs, |y| ((pair.1, y), (new_id, y)));
        Ok(())
    }

    /// Merge `pair` within one word, in place, and record the pairs that the word loses and gains.
    /// Return the new length of the word.
    fn merge_word(
        &mut self,
        tokens: &mut [u32],
        pair: Pair,
        new_id: u32,
        (word, count): (u32, u64),
    ) -> Result<usize, Error> {
        let starts_at = |tokens: &[u32], i: usize| tokens[i..].starts_with(&[pair.0, pair.1]);
        let mut starts = tokens.windows(2);
        let Some(first) = starts.position(|two| two == [pair.0, pair.1]) else {
            return Ok(tokens.len());
        };
        let (mut read, mut write) = (first, first);
        let mut after_merge = false;
        while read < tokens.len() {
            self.context.check_at(write as u32)?;
            if !starts_at(tokens, read) {
                tokens[write] = tokens[read];
                (read, write, after_merge) = (read + 1, write + 1, false);
                continue;
            }
            if write > 0 {
                let before = tokens[write - 1];
                self.left
                    .lose(if after_merge { pair.1 } else { before }, count);
                self.left.gain(before, count, word);
            }
            read += 2;
            // Between two adjacent merges, the pair to the right of the first is the pair to the left
            // of the second, which records it.
            if read < tokens.len() && !starts_at(tokens, read) {
                self.right.lose(tokens[read], count);
                self.right.gain(tokens[read], count, word);
            }
            tokens[write] = new_id;
            (write, after_merge) = (write + 1, true);
        }
        Ok(write)
    }
}
