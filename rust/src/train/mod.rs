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
use crate::encode::merger::Merger;
use crate::error::Error;
use crate::util::context::Context;
use crate::vocab::{Pair, Vocab};

/// A round tracks pairs that are at most this many times rarer than the most frequent pair.
const TRACKED_RANGE: u64 = 32;

/// The progress callback is called once every this many merges.
const PROGRESS_INTERVAL: usize = 64;

/// When training ends, and what it must not make.
#[derive(Debug, Clone, Copy)]
pub struct Limits<'a> {
    /// At most this many merges.
    pub n_merges: usize,
    /// Training ends early when no other pair occurs this often.
    pub min_frequency: u64,
    /// No merge makes a token whose bytes are one of these.
    pub forbidden: &'a [Vec<u8>],
    /// No merge makes a token of more bytes.
    pub max_token_length: Option<usize>,
}

/// Learn merges, as pairs of ids: id i below 256 is the byte `alphabet[i]`, and id 256 + i is the token
/// that merge i makes.
///
/// `progress` is called regularly with the number of merges so far; it returns whether to go on.
///
/// # Errors
/// Fails with [`Error::Interrupted`] if `progress` returns false or `context` is stopped, and if
/// there is not enough memory or the pre-tokens are too long together.
pub fn train(
    context: &Context,
    counts: PieceCounts,
    alphabet: &[u8; 256],
    limits: Limits<'_>,
    progress: impl FnMut(usize) -> bool,
) -> Result<Vec<Pair>, Error> {
    let words = Words::new(context, &counts, Words::bytes(context, alphabet))?;
    drop(counts);
    let bytes = alphabet.iter().map(std::slice::from_ref);
    let forbidden = Forbidden::new(limits.forbidden, limits.max_token_length, bytes);
    learn(context, words, forbidden, 256, limits, progress)
}

/// Learn further merges for a vocabulary, as pairs of ids: merge i makes the id `vocab.n_vocab()` + i.
///
/// Training goes on from the tokens that the pre-tokens have in the vocabulary. If its merges were
/// learned from the same counts, these are the merges that follow them.
///
/// # Errors
/// As [`train`].
pub fn extend(
    context: &Context,
    counts: PieceCounts,
    vocab: &Vocab,
    limits: Limits<'_>,
    progress: impl FnMut(usize) -> bool,
) -> Result<Vec<Pair>, Error> {
    let (mut merger, rules) = (Merger::default(), vocab.rules(context));
    let words = Words::new(context, &counts, |piece, tokens| {
        tokens.extend_from_slice(merger.encode(rules, piece)?);
        Ok(())
    })?;
    drop(counts);
    let n_vocab = vocab.n_vocab();
    let tokens = (0..n_vocab).map(|id| vocab.token_bytes(id).unwrap_or_default());
    let forbidden = Forbidden::new(limits.forbidden, limits.max_token_length, tokens);
    learn(context, words, forbidden, n_vocab as u32, limits, progress)
}

/// Learn merges of the tokens in `words`; the first one makes the id `first_id`.
fn learn(
    context: &Context,
    mut words: Words,
    mut forbidden: Forbidden<'_>,
    first_id: u32,
    limits: Limits<'_>,
    mut progress: impl FnMut(usize) -> bool,
) -> Result<Vec<Pair>, Error> {
    let n_merges = limits.n_merges;
    let mut merges = Vec::new();
    let min_count = limits.min_frequency.max(1);
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
            round.merge(&mut words, pair, first_id + merges.len() as u32)?;
            merges.push(pair);
        }
    }
    Ok(merges)
}
