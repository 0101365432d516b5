//! Ending long work early.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::Error;

/// Fail with [`Error::Interrupted`] if `stop` is true.
#[inline]
pub fn check(stop: &AtomicBool) -> Result<(), Error> {
    if stop.load(Ordering::Relaxed) {
        return Err(Error::Interrupted);
    }
    Ok(())
}

/// [`check`] at every 1024th step.
#[inline]
pub fn check_at(step: u32, stop: &AtomicBool) -> Result<(), Error> {
    if step.is_multiple_of(1024) {
        return check(stop);
    }
    Ok(())
}
