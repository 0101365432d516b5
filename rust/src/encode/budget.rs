//! A bound on the memory of all caches of a tokenizer together.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The memory that caches have reserved, in bytes, and how much they may.
#[derive(Debug)]
pub(super) struct Budget {
    reserved: AtomicUsize,
    limit: usize,
}

/// The share of one cache. Dropping it gives it back.
#[derive(Debug)]
pub(super) struct Reservation {
    budget: Arc<Budget>,
    n_bytes: usize,
}

impl Budget {
    pub(super) fn new(limit: usize) -> Arc<Self> {
        let reserved = AtomicUsize::new(0);
        Arc::new(Budget { reserved, limit })
    }

    #[cfg(test)]
    pub(super) fn reserved(&self) -> usize {
        self.reserved.load(Ordering::Relaxed)
    }

    /// Reserve what every cache has, even beyond the limit.
    pub(super) fn reserve(self: &Arc<Self>, n_bytes: usize) -> Reservation {
        self.reserved.fetch_add(n_bytes, Ordering::Relaxed);
        let budget = Arc::clone(self);
        Reservation { budget, n_bytes }
    }
}

impl Reservation {
    /// Reserve `n_bytes` in all, if that is within the limit.
    pub(super) fn grow_to(&mut self, n_bytes: usize) -> bool {
        let more = n_bytes.saturating_sub(self.n_bytes);
        let limit = self.budget.limit;
        let reserve = |reserved: usize| Some(reserved + more).filter(|&sum| sum <= limit);
        let reserved = &self.budget.reserved;
        let done = reserved.fetch_update(Ordering::Relaxed, Ordering::Relaxed, reserve);
        if done.is_ok() {
            self.n_bytes += more;
        }
        done.is_ok()
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let reserved = &self.budget.reserved;
        reserved.fetch_sub(self.n_bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reservations_stay_within_the_limit_until_they_are_dropped() {
        let budget = Budget::new(100);
        let mut first = budget.reserve(10);
        assert!(first.grow_to(80));
        let mut second = budget.reserve(10);
        assert!(!second.grow_to(21));
        drop(first);
        assert!(second.grow_to(100));
        assert_eq!(budget.reserved(), 100);
        drop(second);
        assert_eq!(budget.reserved(), 0);
    }
}
