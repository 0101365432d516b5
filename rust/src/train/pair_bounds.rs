//! Upper bounds for the counts of all pairs, in little memory.

use super::words::Words;
use crate::error::Error;
use crate::util::context::Context;
use crate::util::parallel::for_each;
use crate::vocab::Pair;

/// An upper bound for the count of every pair: pairs with the same hash share a sum.
pub(super) struct PairBounds {
    /// Each sum saturates at 2^32 - 1.
    sums: Vec<u32>,
}

const LOG2_SUMS: u32 = 20;

/// The maximum number of threads. Each thread allocates 4 MB of partial sums.
const MAX_THREADS: usize = 8;

impl PairBounds {
    pub(super) fn new(context: &Context, words: &Words) -> Result<Self, Error> {
        let n_threads = context.n_threads().min(MAX_THREADS);
        let mut partial = vec![vec![0u32; 1 << LOG2_SUMS]; n_threads];
        for_each(context, &mut partial, n_threads, |sums, i| {
            let all = |_| true;
            words.for_each_pair(context, (i, n_threads), all, |pair, _, count| {
                let sum = &mut sums[PairBounds::slot(pair)];
                *sum = sum.saturating_add(u32::try_from(count).unwrap_or(u32::MAX));
            })
        })?;
        let mut sums = partial.swap_remove(0);
        for others in partial {
            for (sum, other) in sums.iter_mut().zip(others) {
                *sum = sum.saturating_add(other);
            }
        }
        Ok(PairBounds { sums })
    }

    /// The largest bound.
    pub(super) fn largest(&self) -> u64 {
        self.sums.iter().copied().max().unwrap_or(0).into()
    }

    /// The pairs whose counts may be `threshold` or more.
    pub(super) fn reaching(&self, threshold: u64) -> MayReach {
        let may_reach = |&sum: &u32| (u64::from(sum) >= threshold) | (sum == u32::MAX);
        let bits_of = |sums: &[u32]| {
            let bits = sums.iter().map(may_reach).enumerate();
            bits.fold(0, |all, (i, bit)| all | u64::from(bit) << i)
        };
        MayReach(self.sums.chunks(64).map(bits_of).collect())
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

/// The pairs that may reach a threshold, a bit for each sum: unlike the sums, they fit into fast caches.
pub(super) struct MayReach(Vec<u64>);

impl MayReach {
    #[inline]
    pub(super) fn has(&self, pair: Pair) -> bool {
        let slot = PairBounds::slot(pair);
        self.0[slot / 64] >> (slot % 64) & 1 == 1
    }
}
