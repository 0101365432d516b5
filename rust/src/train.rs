//! Learning merges from text.
//!
//! The definition: count each adjacent pair of tokens inside the pre-tokens; merge the most frequent
//! one everywhere, from left to right; repeat. Of equally frequent pairs, the smallest pair of ids
//! (left, then right) wins. `bpe_reference.py` says the same in Python and is what this is held to.

use std::cmp::Reverse;
use std::collections::hash_map::Entry;
use std::collections::BinaryHeap;
use std::thread;

use rustc_hash::FxHashMap;

use crate::error::Error;
use crate::pretokenize::Pattern;

/// How often each distinct pre-token occurs.
pub type PieceCounts = FxHashMap<Box<[u8]>, u64>;

/// Two adjacent tokens, by id.
pub type Pair = (u32, u32);

/// Add the pre-tokens of `texts` to `counts`, on all cores; one text is counted by one thread.
pub fn count_pieces<T: AsRef<str> + Sync>(
    counts: &mut PieceCounts,
    pattern: &Pattern,
    texts: &[T],
) -> Result<(), Error> {
    let n_threads = thread::available_parallelism().map_or(1, usize::from);
    let texts_per_thread = texts.len().div_ceil(n_threads).max(1);
    let partial_counts: Vec<Result<PieceCounts, Error>> = thread::scope(|scope| {
        let threads: Vec<_> = texts
            .chunks(texts_per_thread)
            .map(|texts| scope.spawn(|| count_on_this_thread(pattern, texts)))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().expect("counting doesn't panic"))
            .collect()
    });
    for partial in partial_counts {
        *counts = add_counts(std::mem::take(counts), partial?);
    }
    Ok(())
}

fn count_on_this_thread<T: AsRef<str>>(
    pattern: &Pattern,
    texts: &[T],
) -> Result<PieceCounts, Error> {
    let mut counts = PieceCounts::default();
    for text in texts {
        pattern.split(text.as_ref(), |piece| {
            // Two look-ups, so that only a piece not seen before is copied.
            match counts.get_mut(piece.as_bytes()) {
                Some(count) => *count += 1,
                None => {
                    counts.insert(piece.as_bytes().into(), 1);
                }
            }
            Ok(())
        })?;
    }
    Ok(counts)
}

fn add_counts(a: PieceCounts, b: PieceCounts) -> PieceCounts {
    let (mut sum, other) = if a.len() < b.len() { (b, a) } else { (a, b) };
    for (piece, count) in other {
        *sum.entry(piece).or_default() += count;
    }
    sum
}

/// Learn at most `n_merges` merges: pairs of ids, where id 0 to 255 is the byte of that value and
/// 256 + i is what merge i makes.
///
/// Ends early when no pair occurs at least `min_frequency` times. `keep_going` is asked now and
/// then; false ends the training with [`Error::Interrupted`].
pub fn train(
    counts: &PieceCounts,
    n_merges: usize,
    min_frequency: u64,
    mut keep_going: impl FnMut() -> bool,
) -> Result<Vec<Pair>, Error> {
    let mut corpus = Corpus::new(counts)?;
    let mut queue: BinaryHeap<_> = corpus
        .pairs
        .iter()
        .map(|(&pair, occurrences)| (occurrences.count, Reverse(pair)))
        .collect();
    let mut merges = Vec::new();
    while merges.len() < n_merges {
        let Some((count, Reverse(pair))) = queue.pop() else {
            break;
        };
        // The queue is lazy. A pair's count can only fall after the merge that brought it up, so an
        // entry never promises too little; one that promises too much goes back with its true count.
        let count_now = corpus.pairs.get(&pair).map_or(0, |pair| pair.count);
        if count_now != count {
            queue.push((count_now, Reverse(pair)));
            continue;
        }
        if count < min_frequency.max(1) {
            break;
        }
        if merges.len() % 64 == 0 && !keep_going() {
            return Err(Error::Interrupted);
        }
        let new_id = 256 + merges.len() as u32;
        for born in corpus.merge(pair, new_id) {
            queue.push((corpus.pairs[&born].count, Reverse(born)));
        }
        merges.push(pair);
    }
    Ok(merges)
}

/// Where a pair stands, and how often, counting each distinct pre-token as often as it occurs.
#[derive(Default)]
struct Occurrences {
    count: u64,
    /// Positions of the left token, ascending. Some may be out of date: `Corpus::pair_at` tells.
    positions: Vec<u32>,
}

/// All distinct pre-tokens laid end to end, as linked lists of tokens over the byte positions.
struct Corpus {
    ids: Vec<u32>,
    next: Vec<u32>,
    previous: Vec<u32>,
    /// Which pre-token a position belongs to, and how often that one occurs.
    piece: Vec<u32>,
    piece_count: Vec<u64>,
    pairs: FxHashMap<Pair, Occurrences>,
}

/// In `next` and `previous`: a pre-token ends here. In `ids`: merged into the token on the left.
const NONE: u32 = u32::MAX;

impl Corpus {
    fn new(counts: &PieceCounts) -> Result<Self, Error> {
        let n_bytes: usize = counts.keys().map(|piece| piece.len()).sum();
        if n_bytes >= NONE as usize {
            return Err(Error::TooLong(format!(
                "the distinct pre-tokens have {n_bytes} bytes together, expected less than 4 GiB: \
                 train on less text or split it into shorter pre-tokens"
            )));
        }
        let mut corpus = Corpus {
            ids: Vec::with_capacity(n_bytes),
            next: Vec::with_capacity(n_bytes),
            previous: Vec::with_capacity(n_bytes),
            piece: Vec::with_capacity(n_bytes),
            piece_count: Vec::with_capacity(counts.len()),
            pairs: FxHashMap::default(),
        };
        for (piece, &count) in counts {
            let piece_index = corpus.piece_count.len() as u32;
            corpus.piece_count.push(count);
            for (i, &byte) in piece.iter().enumerate() {
                let position = corpus.ids.len() as u32;
                let is_last = i + 1 == piece.len();
                corpus.ids.push(u32::from(byte));
                corpus.next.push(if is_last { NONE } else { position + 1 });
                corpus
                    .previous
                    .push(if i == 0 { NONE } else { position - 1 });
                corpus.piece.push(piece_index);
            }
        }
        for position in 0..corpus.ids.len() as u32 {
            corpus.add(position);
        }
        Ok(corpus)
    }

    /// The pair whose left token stands at `left`, if there is one.
    fn pair_at(&self, left: u32) -> Option<Pair> {
        let left_id = *self.ids.get(left as usize)?;
        let right = self.next[left as usize];
        let right_id = *self.ids.get(right as usize)?;
        (left_id != NONE).then_some((left_id, right_id))
    }

    fn weight(&self, position: u32) -> u64 {
        self.piece_count[self.piece[position as usize] as usize]
    }

    /// Count the pair at `left`, if there is one; return it if it was never seen before.
    fn add(&mut self, left: u32) -> Option<Pair> {
        let pair = self.pair_at(left)?;
        let weight = self.weight(left);
        let entry = self.pairs.entry(pair);
        let is_new = matches!(entry, Entry::Vacant(_));
        let occurrences = entry.or_default();
        occurrences.count += weight;
        occurrences.positions.push(left);
        is_new.then_some(pair)
    }

    /// Take the pair at `left`, if there is one, out of the count; its position just goes stale.
    fn remove(&mut self, left: u32) {
        if let Some(pair) = self.pair_at(left) {
            let weight = self.weight(left);
            // The pair being merged is not in the map any more, and needs no count.
            if let Some(occurrences) = self.pairs.get_mut(&pair) {
                occurrences.count -= weight;
            }
        }
    }

    /// Replace `pair` by `new_id` everywhere, from left to right; return the pairs this made.
    ///
    /// Costs one step per occurrence. The positions of the new pairs come out ascending, because
    /// merging at p adds pairs at p and at the token before p, which is no earlier than the last p.
    fn merge(&mut self, pair: Pair, new_id: u32) -> Vec<Pair> {
        let positions = self.pairs.remove(&pair).unwrap_or_default().positions;
        let mut born = Vec::new();
        for left in positions {
            if self.pair_at(left) != Some(pair) {
                continue;
            }
            let right = self.next[left as usize];
            let before = self.previous[left as usize];
            let after = self.next[right as usize];
            self.remove(before);
            self.remove(right);
            self.ids[left as usize] = new_id;
            self.ids[right as usize] = NONE;
            self.next[left as usize] = after;
            if let Some(previous) = self.previous.get_mut(after as usize) {
                *previous = left;
            }
            born.extend(self.add(before));
            born.extend(self.add(left));
        }
        born
    }
}
