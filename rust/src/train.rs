//! Learning merges from counted pre-tokens.
//!
//! The definition: count each adjacent pair of tokens inside the pre-tokens; merge the most frequent
//! one everywhere, from left to right; repeat. Of equally frequent pairs, the smallest pair of ids
//! (left, then right) wins. `bpe_reference.py` says the same in Python and is what this is held to.
//!
//! What makes it fast: a merge visits only the pre-tokens that have the pair. Its effect on the counts
//! of other pairs is summed up by neighbour before the table of pairs is touched. And that table holds
//! only pairs that are frequent enough to be merged soon: counts never grow, so the others can wait
//! until all of these are used up, and be counted anew then.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::collections::hash_map::Entry;
use std::sync::atomic::AtomicBool;

use rustc_hash::FxHashMap;

use crate::count::PieceCounts;
use crate::error::Error;
use crate::stop::check_at;

/// Two adjacent tokens, by id.
pub type Pair = (u32, u32);

/// How many times rarer than the most frequent pair a pair may be to be worth following.
const FOLLOW_RANGE: u64 = 32;

/// Learn at most `n_merges` merges: pairs of ids, where id i below 256 is the byte `alphabet[i]` and
/// 256 + i is what merge i makes.
///
/// Ends early when no pair occurs at least `min_frequency` times. `keep_going` is told now and then
/// how many merges there are; false, or soon after it `stop`, ends the training with
/// [`Error::Interrupted`].
pub fn train(
    counts: PieceCounts,
    alphabet: &[u8; 256],
    n_merges: usize,
    min_frequency: u64,
    stop: &AtomicBool,
    mut keep_going: impl FnMut(usize) -> bool,
) -> Result<Vec<Pair>, Error> {
    let mut corpus = Corpus::new(&counts, alphabet)?;
    drop(counts);
    let mut merges = Vec::new();
    let fewest = min_frequency.max(1);
    // Each round follows the pairs that are frequent enough for it, until none of them is left.
    while merges.len() < n_merges {
        let Some(mut round) = Round::new(&corpus, fewest, stop)? else {
            break;
        };
        while merges.len() < n_merges {
            let Some(pair) = round.most_frequent() else {
                break;
            };
            if merges.len().is_multiple_of(64) && !keep_going(merges.len()) {
                return Err(Error::Interrupted);
            }
            round.merge(&mut corpus, pair, 256 + merges.len() as u32, stop)?;
            merges.push(pair);
        }
    }
    Ok(merges)
}

/// All distinct pre-tokens of two bytes or more, as tokens.
struct Corpus {
    /// The tokens of one pre-token after another; those that merging has freed stay between them.
    tokens: Vec<u32>,
    words: Vec<Word>,
}

/// A distinct pre-token.
#[derive(Clone, Copy)]
struct Word {
    /// How often it occurs.
    count: u64,
    /// Where its tokens are.
    start: u32,
    n_tokens: u32,
}

impl Corpus {
    fn new(counts: &PieceCounts, alphabet: &[u8; 256]) -> Result<Self, Error> {
        let mut ids = [0; 256];
        for (id, &byte) in (0..).zip(alphabet) {
            ids[usize::from(byte)] = id;
        }
        let (mut n_words, mut n_bytes) = (0, 0);
        counts.for_each(|piece, _| {
            n_words += usize::from(piece.len() > 1);
            n_bytes += piece.len();
        });
        if u32::try_from(n_bytes).is_err() {
            return Err(Error::TooLong(format!(
                "the distinct pre-tokens have {n_bytes} bytes together, expected less than 4 GiB: \
                 train on less text or split it into shorter pre-tokens"
            )));
        }
        let mut corpus = Corpus {
            tokens: Vec::with_capacity(n_bytes),
            words: Vec::with_capacity(n_words),
        };
        counts.for_each(|piece, count| {
            if piece.len() > 1 {
                let start = corpus.tokens.len() as u32;
                corpus.words.push(Word {
                    count,
                    start,
                    n_tokens: piece.len() as u32,
                });
                corpus
                    .tokens
                    .extend(piece.iter().map(|&byte| ids[usize::from(byte)]));
            }
        });
        Ok(corpus)
    }

    fn tokens_of(&self, word: &Word) -> &[u32] {
        &self.tokens[word.start as usize..][..word.n_tokens as usize]
    }

    fn pair_counts(&self, stop: &AtomicBool) -> Result<FxHashMap<Pair, u64>, Error> {
        let mut counts = FxHashMap::default();
        for (i, word) in (0..).zip(&self.words) {
            check_at(i, stop)?;
            for pair in self.tokens_of(word).windows(2) {
                *counts.entry((pair[0], pair[1])).or_default() += word.count;
            }
        }
        Ok(counts)
    }
}

/// A pair that is followed.
struct Followed {
    /// How often it occurs, counting each distinct pre-token as often as that occurs.
    count: u64,
    /// The indices of the words that have it, and of some that had it.
    words: Vec<u32>,
}

/// The pairs that occur at least `threshold` times, while there are any.
struct Round {
    threshold: u64,
    followed: FxHashMap<Pair, Followed>,
    /// By count, then smallest pair first. A count may be out of date, but is never too small.
    queue: BinaryHeap<(u64, Reverse<Pair>)>,
    left: Neighbours,
    right: Neighbours,
}

impl Round {
    /// None if no pair occurs at least `fewest` times.
    fn new(corpus: &Corpus, fewest: u64, stop: &AtomicBool) -> Result<Option<Self>, Error> {
        let mut counts = corpus.pair_counts(stop)?;
        let most = counts.values().copied().max().unwrap_or(0);
        if most < fewest {
            return Ok(None);
        }
        let threshold = fewest.max(most / FOLLOW_RANGE);
        counts.retain(|_, count| *count >= threshold);
        let mut followed: FxHashMap<Pair, Followed> = counts
            .into_iter()
            .map(|(pair, count)| {
                (
                    pair,
                    Followed {
                        count,
                        words: Vec::new(),
                    },
                )
            })
            .collect();
        for (i, word) in (0..).zip(&corpus.words) {
            check_at(i, stop)?;
            for pair in corpus.tokens_of(word).windows(2) {
                if let Some(pair) = followed.get_mut(&(pair[0], pair[1])) {
                    push_new(&mut pair.words, i);
                }
            }
        }
        let queue = followed
            .iter()
            .map(|(&pair, f)| (f.count, Reverse(pair)))
            .collect();
        let (left, right) = Default::default();
        Ok(Some(Round {
            threshold,
            followed,
            queue,
            left,
            right,
        }))
    }

    /// Take the pair to be merged next out of the queue.
    fn most_frequent(&mut self) -> Option<Pair> {
        while let Some((count, Reverse(pair))) = self.queue.pop() {
            match self.followed.get(&pair) {
                Some(followed) if followed.count == count => return Some(pair),
                Some(followed) => self.queue.push((followed.count, Reverse(pair))),
                None => {}
            }
        }
        None
    }

    /// Replace `pair` by `new_id` everywhere, from left to right.
    fn merge(
        &mut self,
        corpus: &mut Corpus,
        pair: Pair,
        new_id: u32,
        stop: &AtomicBool,
    ) -> Result<(), Error> {
        let words = self
            .followed
            .remove(&pair)
            .map_or(Vec::new(), |followed| followed.words);
        for i in words {
            check_at(i, stop)?;
            let word = &mut corpus.words[i as usize];
            let tokens = &mut corpus.tokens[word.start as usize..][..word.n_tokens as usize];
            let n_tokens = self.merge_word(tokens, pair, new_id, i, word.count);
            word.n_tokens = n_tokens as u32;
        }
        let Round {
            threshold,
            followed,
            queue,
            left,
            right,
        } = self;
        left.settle(*threshold, followed, queue, |x| ((x, pair.0), (x, new_id)));
        right.settle(*threshold, followed, queue, |y| ((pair.1, y), (new_id, y)));
        Ok(())
    }

    /// Merge within one word, in place; note what pairs it loses and gets. Returns its new length.
    fn merge_word(
        &mut self,
        tokens: &mut [u32],
        pair: Pair,
        new_id: u32,
        word: u32,
        count: u64,
    ) -> usize {
        let starts_at = |tokens: &[u32], i: usize| tokens[i..].starts_with(&[pair.0, pair.1]);
        let (mut read, mut write) = (0, 0);
        let mut after_merge = false;
        while read < tokens.len() {
            if !starts_at(tokens, read) {
                tokens[write] = tokens[read];
                (read, write, after_merge) = (read + 1, write + 1, false);
                continue;
            }
            if write > 0 {
                let before = tokens[write - 1];
                self.left
                    .lose(if after_merge { pair.1 } else { before }, count);
                self.left.get(before, count, word);
            }
            read += 2;
            // Between two merges the pair on the right is the next one's on the left.
            if read < tokens.len() && !starts_at(tokens, read) {
                self.right.lose(tokens[read], count);
                self.right.get(tokens[read], count, word);
            }
            tokens[write] = new_id;
            (write, after_merge) = (write + 1, true);
        }
        write
    }
}

/// What one merge changes, by the token on one side of the merged pair.
#[derive(Default)]
struct Neighbours {
    /// By id: how often the old pair with this neighbour is gone, and how often there is a new one.
    lost: Vec<u64>,
    got: Vec<u64>,
    /// The ids that are not 0 above.
    ids: Vec<u32>,
    /// For each new pair its neighbour and the word it is in.
    new_pairs: Vec<(u32, u32)>,
    /// By id: the words of a new pair, while they are gathered.
    words: Vec<Vec<u32>>,
}

impl Neighbours {
    fn lose(&mut self, id: u32, count: u64) {
        self.note(id);
        self.lost[id as usize] += count;
    }

    fn get(&mut self, id: u32, count: u64, word: u32) {
        self.note(id);
        self.got[id as usize] += count;
        self.new_pairs.push((id, word));
    }

    fn note(&mut self, id: u32) {
        let i = id as usize;
        if i >= self.lost.len() {
            self.lost.resize(2 * i + 1, 0);
            self.got.resize(2 * i + 1, 0);
            self.words.resize(2 * i + 1, Vec::new());
        }
        if self.lost[i] == 0 && self.got[i] == 0 {
            self.ids.push(id);
        }
    }

    /// Enter the changes into the table of pairs and forget them. `pairs_of` gives the old and the
    /// new pair of a neighbour.
    fn settle(
        &mut self,
        threshold: u64,
        followed: &mut FxHashMap<Pair, Followed>,
        queue: &mut BinaryHeap<(u64, Reverse<Pair>)>,
        pairs_of: impl Fn(u32) -> (Pair, Pair),
    ) {
        for (id, word) in self.new_pairs.drain(..) {
            if self.got[id as usize] >= threshold {
                push_new(&mut self.words[id as usize], word);
            }
        }
        for id in self.ids.drain(..) {
            let (old_pair, new_pair) = pairs_of(id);
            let lost = std::mem::take(&mut self.lost[id as usize]);
            if let Entry::Occupied(mut old) = followed.entry(old_pair) {
                old.get_mut().count -= lost;
                if old.get().count < threshold {
                    old.remove();
                }
            }
            let count = std::mem::take(&mut self.got[id as usize]);
            if count >= threshold {
                let words = std::mem::take(&mut self.words[id as usize]);
                followed.insert(new_pair, Followed { count, words });
                queue.push((count, Reverse(new_pair)));
            }
        }
    }
}

/// Append `word` unless it is the last one already.
fn push_new(words: &mut Vec<u32>, word: u32) {
    if words.last() != Some(&word) {
        words.push(word);
    }
}
