//! Learning merges from counted pre-tokens.
//!
//! The definition: count each adjacent pair of tokens inside the pre-tokens; merge the most frequent
//! one everywhere, from left to right; repeat. Of equally frequent pairs, the smallest pair of ids
//! (left, then right) wins. `bpe_reference.py` says the same in Python and is what this is held to.
//!
//! What makes it fast: a merge visits only the pre-tokens that have the pair, and asks for them ahead of
//! time, since they lie all over the memory. Its effect on the counts of other pairs is summed up by
//! neighbour before the table of pairs is touched. And that table holds only pairs that are frequent
//! enough to be merged soon: counts never grow, so the others can wait until all of these are used up.

pub mod counter;
pub mod piece_counts;
pub mod spill;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::collections::hash_map::Entry;
use std::sync::atomic::AtomicBool;

use rustc_hash::FxHashMap;

use crate::error::Error;
use crate::train::piece_counts::PieceCounts;
use crate::util::interrupt::{check, check_at};
use crate::util::memory::{large_vec, prefetch};
use crate::util::parallel::for_each;

/// Two adjacent tokens, by id.
pub type Pair = (u32, u32);

/// This many words ahead the memory of a word is asked for.
const AHEAD: usize = 8;

/// Of a word that is longer, so many bytes or tokens are seen to between two looks at `stop`.
const STRETCH: usize = 1 << 16;

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
    n_threads: usize,
    stop: &AtomicBool,
    mut keep_going: impl FnMut(usize) -> bool,
) -> Result<Vec<Pair>, Error> {
    let mut corpus = Corpus::new(&counts, alphabet, stop)?;
    drop(counts);
    let mut merges = Vec::new();
    let fewest = min_frequency.max(1);
    let mut threshold = u64::MAX;
    // Each round follows the pairs that are frequent enough for it, until none of them is left.
    while threshold > fewest && merges.len() < n_merges {
        let bounds = Bounds::new(&corpus, stop)?;
        threshold = fewest.max(bounds.largest().min(threshold) / FOLLOW_RANGE);
        let mut round = Round::new(&corpus, &bounds, threshold, n_threads, stop)?;
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

/// All distinct pre-tokens of two bytes or more, called words here.
struct Corpus {
    /// One word after another: how many tokens it has, how often it occurs (the low and the high 32
    /// bits), and the tokens. What merging has freed stays between them.
    words: Vec<u32>,
    /// Where in `words` each begins.
    starts: Vec<u32>,
}

/// The numbers before a word's tokens.
const HEADER: usize = 3;

fn count_in(header: &[u32]) -> u64 {
    u64::from(header[2]) << 32 | u64::from(header[1])
}

impl Corpus {
    fn new(counts: &PieceCounts, alphabet: &[u8; 256], stop: &AtomicBool) -> Result<Self, Error> {
        let mut ids = [0; 256];
        for (id, &byte) in (0..).zip(alphabet) {
            ids[usize::from(byte)] = id;
        }
        let (mut n_words, mut n_numbers) = (0, 0);
        counts.for_each(stop, |piece, _| {
            if piece.len() > 1 {
                n_words += 1;
                n_numbers += HEADER + piece.len();
            }
            Ok(())
        })?;
        if u32::try_from(n_numbers).is_err() {
            return Err(Error::TooLong(format!(
                "the {n_words} distinct pre-tokens have {} bytes together, expected less than 4 GiB: \
                 train on less text or split it into shorter pre-tokens",
                n_numbers - HEADER * n_words
            )));
        }
        let mut corpus = Corpus {
            words: large_vec(n_numbers)?,
            starts: large_vec(n_words)?,
        };
        counts.for_each(stop, |piece, count| {
            if piece.len() > 1 {
                corpus.starts.push(corpus.words.len() as u32);
                let header = [piece.len() as u32, count as u32, (count >> 32) as u32];
                corpus.words.extend(header);
                for stretch in piece.chunks(STRETCH) {
                    check(stop)?;
                    let tokens = stretch.iter().map(|&byte| ids[usize::from(byte)]);
                    corpus.words.extend(tokens);
                }
            }
            Ok(())
        })?;
        Ok(corpus)
    }

    /// How many tokens a word has, how often it occurs, and its tokens.
    fn word_mut(&mut self, start: u32) -> (&mut u32, u64, &mut [u32]) {
        let (header, tokens) = self.words[start as usize..].split_at_mut(HEADER);
        let (n_tokens, count) = (header[0] as usize, count_in(header));
        (&mut header[0], count, &mut tokens[..n_tokens])
    }

    /// How often a word occurs, and its tokens.
    fn word(&self, start: u32) -> (u64, &[u32]) {
        let (header, tokens) = self.words[start as usize..].split_at(HEADER);
        (count_in(header), &tokens[..header[0] as usize])
    }

    /// Hand each pair of adjacent tokens that is wanted to `visit`, with the start of its word and that
    /// word's count.
    fn for_each_pair(
        &self,
        stop: &AtomicBool,
        is_wanted: impl Fn(Pair) -> bool,
        mut visit: impl FnMut(Pair, u32, u64),
    ) -> Result<(), Error> {
        let mut wanted = Vec::new();
        for (i, &start) in (0..).zip(&self.starts) {
            check_at(i, stop)?;
            let (count, mut tokens) = self.word(start);
            while tokens.len() > 1 {
                let stretch = &tokens[..tokens.len().min(STRETCH)];
                if wanted.len() < stretch.len() {
                    wanted.resize(stretch.len(), (0, 0));
                }
                // Which of them are nobody can foresee, so they are gathered without a branch.
                let mut n = 0;
                for two in stretch.windows(2) {
                    wanted[n] = (two[0], two[1]);
                    n += usize::from(is_wanted(wanted[n]));
                }
                for &pair in &wanted[..n] {
                    visit(pair, start, count);
                }
                tokens = &tokens[stretch.len() - 1..];
                if tokens.len() > 1 {
                    check(stop)?;
                }
            }
        }
        Ok(())
    }
}

/// For every pair an upper bound of its count, in little memory: some pairs share a sum.
struct Bounds {
    /// Of at most 2^32 - 1.
    sums: Vec<u32>,
}

const LOG2_SUMS: u32 = 20;

impl Bounds {
    fn new(corpus: &Corpus, stop: &AtomicBool) -> Result<Self, Error> {
        let mut sums = vec![0u32; 1 << LOG2_SUMS];
        let all = |_| true;
        corpus.for_each_pair(stop, all, |pair, _, count| {
            let sum = &mut sums[Bounds::place(pair)];
            *sum = sum.saturating_add(u32::try_from(count).unwrap_or(u32::MAX));
        })?;
        Ok(Bounds { sums })
    }

    fn largest(&self) -> u64 {
        self.sums.iter().copied().max().unwrap_or(0).into()
    }

    /// Whether the count of `pair` may be `threshold` or more.
    fn reaches(&self, pair: Pair, threshold: u64) -> bool {
        let sum = self.sums[Bounds::place(pair)];
        (u64::from(sum) >= threshold) | (sum == u32::MAX)
    }

    #[inline]
    fn place((left, right): Pair) -> usize {
        // A product's highest bits depend on all bits of the factor.
        let mixed = u64::from(left) << 32 | u64::from(right);
        (mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - LOG2_SUMS)) as usize
    }
}

/// A pair that is followed.
#[derive(Clone, Default)]
struct Followed {
    /// How often it occurs, counting each distinct pre-token as often as that occurs.
    count: u64,
    /// The starts of the words that have it, and of some that had it.
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
    fn new(
        corpus: &Corpus,
        bounds: &Bounds,
        threshold: u64,
        n_threads: usize,
        stop: &AtomicBool,
    ) -> Result<Self, Error> {
        // Each thread looks at all pairs and takes its share, so that the words come in order.
        let mut shares = vec![FxHashMap::<Pair, Followed>::default(); n_threads];
        for_each(&mut shares, n_threads, stop, |followed, i| {
            let mine = |pair| (Bounds::place(pair) * n_threads) >> LOG2_SUMS == i;
            let is_wanted = |pair| bounds.reaches(pair, threshold) & mine(pair);
            corpus.for_each_pair(stop, is_wanted, |pair, word, count| {
                let followed = followed.entry(pair).or_default();
                followed.count += count;
                push_new(&mut followed.words, word);
            })?;
            followed.retain(|_, followed| followed.count >= threshold);
            Ok(())
        })?;
        let followed: FxHashMap<Pair, Followed> = shares.into_iter().flatten().collect();
        let queue = followed
            .iter()
            .map(|(&pair, f)| (f.count, Reverse(pair)))
            .collect();
        let (left, right) = Default::default();
        Ok(Round {
            threshold,
            followed,
            queue,
            left,
            right,
        })
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
        for (i, &start) in (0..).zip(&words) {
            check_at(i, stop)?;
            if let Some(&ahead) = words.get(i as usize + AHEAD) {
                prefetch(&corpus.words, ahead as usize);
                prefetch(&corpus.words, ahead as usize + 16); // the next cache line
            }
            let (n_tokens, count, tokens) = corpus.word_mut(start);
            *n_tokens = self.merge_word(tokens, pair, new_id, (start, count), stop)? as u32;
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

    /// Merge within one word, given by its start and count too, in place; note what pairs it loses
    /// and gets. Returns its new length.
    fn merge_word(
        &mut self,
        tokens: &mut [u32],
        pair: Pair,
        new_id: u32,
        (word, count): (u32, u64),
        stop: &AtomicBool,
    ) -> Result<usize, Error> {
        let starts_at = |tokens: &[u32], i: usize| tokens[i..].starts_with(&[pair.0, pair.1]);
        let mut starts = tokens.windows(2);
        let Some(first) = starts.position(|two| two == [pair.0, pair.1]) else {
            return Ok(tokens.len());
        };
        let (mut read, mut write) = (first, first);
        let mut after_merge = false;
        while read < tokens.len() {
            check_at(write as u32, stop)?;
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
        Ok(write)
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
