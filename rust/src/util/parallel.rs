//! Parallel loops on threads that end with the call.
//!
//! There is no thread pool: a forked process has none of its parent's threads, so it would wait for
//! them forever.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use crate::error::Error;
use crate::util::context::Context;

/// Call `work` for each number below `n`, with one thread for each of `states`.
///
/// A thread takes the next number as soon as it has finished the last one. The first error ends the
/// loop.
///
/// # Errors
/// Fails with an error of `work`, if no thread can be started, or if `context` is stopped.
pub fn for_each<S: Send>(
    context: &Context,
    states: &mut [S],
    n: usize,
    work: impl Fn(&mut S, usize) -> Result<(), Error> + Sync,
) -> Result<(), Error> {
    let next = AtomicUsize::new(0);
    let failed = AtomicBool::new(false);
    let run = |state: &mut S| {
        loop {
            let i = next.fetch_add(1, Ordering::Relaxed);
            if i >= n || failed.load(Ordering::Relaxed) {
                return Ok(());
            }
            context.check()?;
            if let Err(error) = work(state, i) {
                failed.store(true, Ordering::Relaxed);
                return Err(error);
            }
        }
    };
    match states {
        // A single thread is the caller's own.
        [state] => run(state),
        states => thread::scope(|scope| {
            let mut threads = Vec::new();
            for (i, state) in states.iter_mut().take(n).enumerate() {
                let spawned = thread::Builder::new().spawn_scoped(scope, || run(state));
                match spawned {
                    Ok(thread) => threads.push(thread),
                    Err(error) if i == 0 => {
                        return Err(Error::Memory(format!("no thread can be started: {error}")));
                    }
                    // The threads that did start do all the work.
                    Err(_) => break,
                }
            }
            threads.into_iter().try_for_each(|thread| {
                thread
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })
        }),
    }
}
