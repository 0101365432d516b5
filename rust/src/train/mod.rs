//! Training: text to merges.
//!
//! The definition: count each pair of adjacent tokens inside the pre-tokens, merge the most frequent
//! pair everywhere from left to right, and repeat. Of equally frequent pairs, the smallest pair of ids
//! (left, then right) wins. A pair that would make a forbidden token is never merged.
//! [`crate::naive::train`] spells this out.
//!
//! Three things make [`train`] fast. A merge visits only the pre-tokens that have the pair, and
//! prefetches them, since they are scattered over the memory. The changes to the counts of other pairs
//! are summed by neighbour before the table of pairs is updated. And that table holds only pairs that
//! are frequent enough to be merged soon: counts never grow, so the other pairs can wait until these
//! are used up.

pub mod counter;
mod forbidden;
mod merge_round;
mod pair_bounds;
mod pair_deltas;
pub mod piece_counts;
pub mod spill;
mod words;

use self::forbidden::Forbidden;
use self::merge_round::MergeRound;
use self::pair_bounds::PairBounds;
use self::piece_counts::PieceCounts;
use self::words::Words;
use crate::error::Error;
use crate::util::context::Context;
use crate::vocab::Pair;

/// A round tracks pairs that are at most this many times rarer than the most frequent pair.
const TRACKED_RANGE: u64 = 32;

/// The progress callback is called once every this many merges.
const PROGRESS_INTERVAL: usize = 64;

/// Learn at most `n_merges` merges, as pairs of ids: id i below 256 is the byte `alphabet[i]`, and id
/// 256 + i is the token that merge i makes.
///
/// No merge makes a token whose bytes are one of `forbidden`.
///
/// Training ends early when no other pair occurs at least `min_frequency` times. `progress` is called
/// regularly with the number of merges so far; it returns whether to go on.
///
/// # Errors
/// Fails with [`Error::Interrupted`] if `progress` returns false or `context` is stopped, and if
/// there is not enough memory or the pre-tokens are too long together.
pub fn train(
    context: &Context,
    counts: PieceCounts,
    alphabet: &[u8; 256],
    n_merges: usize,
    min_frequency: u64,
    forbidden: &[Vec<u8>],
    mut progress: impl FnMut(usize) -> bool,
) -> Result<Vec<Pair>, Error> {
    let mut words = Words::new(context, &counts, alphabet)?;
    drop(counts);
    let mut forbidden = Forbidden::new(forbidden, alphabet);
    let mut merges = Vec::new();
    let min_count = min_frequency.max(1);
    let mut threshold = u64::MAX;
    // Each round tracks the pairs that reach its threshold, until none of them is left.
    while threshold > min_count && merges.len() < n_merges {
        let bounds = PairBounds::new(context, &words)?;
        threshold = min_count.max(bounds.largest().min(threshold) / TRACKED_RANGE);
        let mut round = MergeRound::new(context, &words, &bounds, threshold)?;
        while merges.len() < n_merges {
            let Some(pair) = round.most_frequent() else {
                break;
            };
            if merges.len().is_multiple_of(PROGRESS_INTERVAL) && !progress(merges.len()) {
                return Err(Error::Interrupted);
            }
            // The pair is not tracked again in this round, and refused again in the next.
            if !forbidden.allows(pair) {
                continue;
            }
            round.merge(&mut words, pair, 256 + merges.len() as u32)?;
            merges.push(pair);
        }
    }
    Ok(merges)
}
