//! The conditions that a call runs under.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::Error;

/// How many threads a call may use, and whether it has been told to stop.
///
/// All work that may take long checks the flag regularly and fails with [`Error::Interrupted`] soon
/// after another thread has called [`Context::stop`].
#[derive(Debug)]
pub struct Context {
    n_threads: usize,
    stopped: AtomicBool,
}

impl Default for Context {
    /// One thread.
    fn default() -> Self {
        Context::new(1)
    }
}

impl Context {
    /// Allow `n_threads` threads, at least one.
    pub fn new(n_threads: usize) -> Self {
        Context {
            n_threads,
            stopped: AtomicBool::new(false),
        }
    }

    /// The number of threads that the call may use.
    pub fn n_threads(&self) -> usize {
        self.n_threads
    }

    /// Tell the call to stop.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    /// Fail with [`Error::Interrupted`] if the call was told to stop.
    #[inline]
    pub fn check(&self) -> Result<(), Error> {
        if self.stopped.load(Ordering::Relaxed) {
            return Err(Error::Interrupted);
        }
        Ok(())
    }

    /// [`Context::check`] at every 1024th step of a loop.
    #[inline]
    pub fn check_at(&self, step: u32) -> Result<(), Error> {
        if step.is_multiple_of(1024) {
            return self.check();
        }
        Ok(())
    }
}
