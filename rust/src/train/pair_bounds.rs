//! Upper bounds for the counts of all pairs, in little memory.

use super::words::Words;
use crate::error::Error;
use crate::util::context::Context;
use crate::vocab::Pair;

/// An upper bound for the count of every pair: pairs with the same hash share a sum.
pub(super) struct PairBounds {
    /// Each sum saturates at 2^32 - 1.
    sums: Vec<u32>,
}

const LOG2_SUMS: u32 = 20;

impl PairBounds {
    pub(super) fn new(context: &Context, words: &Words) -> Result<Self, Error> {
        let mut sums = vec![0u32; 1 << LOG2_SUMS];
        let all = |_| true;
        words.for_each_pair(context, all, |pair, _, count| {
            let sum = &mut sums[PairBounds::slot(pair)];
            *sum = sum.saturating_add(u32::try_from(count).unwrap_or(u32::MAX));
        })?;
        Ok(PairBounds { sums })
    }

    /// The largest bound.
    pub(super) fn largest(&self) -> u64 {
        self.sums.iter().copied().max().unwrap_or(0).into()
    }

    /// Whether the count of `pair` may be `threshold` or more.
    #[inline]
    pub(super) fn may_reach(&self, pair: Pair, threshold: u64) -> bool {
        let sum = self.sums[PairBounds::slot(pair)];
        (u64::from(sum) >= threshold) | (sum == u32::MAX)
    }

    /// Which of `n` shares of about equal size `pair` belongs to.
    #[inline]
    pub(super) fn share(pair: Pair, n: usize) -> usize {
        (PairBounds::slot(pair) * n) >> LOG2_SUMS
    }

    #[inline]
    fn slot((left, right): Pair) -> usize {
        // The highest bits of a product depend on all bits of the factor.
        let mixed = u64::from(left) << 32 | u64::from(right);
        (mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - LOG2_SUMS)) as usize
    }
}
