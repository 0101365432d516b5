//! Work on several threads, which live no longer than the call.
//!
//! No pool of threads is kept: a process that was forked has none of its parent's threads, and waiting
//! for one of them would take forever.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use crate::error::Error;
use crate::util::interrupt::check;

/// Do `work` for each number below `n`, with one thread for each of `states`.
///
/// Each thread takes the next number as soon as it is done with the last. The first error ends the
/// work, and so does `stop`, soon after it has become true.
pub fn for_each<S: Send>(
    states: &mut [S],
    n: usize,
    stop: &AtomicBool,
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
            check(stop)?;
            if let Err(error) = work(state, i) {
                failed.store(true, Ordering::Relaxed);
                return Err(error);
            }
        }
    };
    match states {
        // One thread is the caller's own.
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
                    // Those that there are will do.
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
