//! Threads that do one part of a step after another.
//!
//! They live as long as one step: a forked process has none of its parent's threads, so threads that
//! wait for the next step would be missing there.
//!
//! A part has numbered units, and a thread claims the next one as soon as it has finished the last. A
//! part is complete when all its units are finished, and no thread begins the next part before.
//! So a thread that starts late, or that the system stops for a while, delays the others by one unit
//! at most.

use std::hint;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;

/// How often to look at a counter before a thread lets others run: about 20 us.
const SPINS: usize = 500;

/// How often to let others run before a thread sleeps.
const YIELDS: usize = 20;

/// What the threads of a step share.
struct Team {
    parts: Vec<Part>,
    /// Number of threads that sleep until a part is complete.
    n_asleep: AtomicUsize,
    /// Set when a thread has panicked: its unit will never be finished.
    broken: AtomicBool,
    lock: Mutex<()>,
    changed: Condvar,
}

/// How far the threads are in a part. Each part has its own cache line.
#[derive(Default)]
#[repr(align(128))]
struct Part {
    n_claimed: AtomicUsize,
    n_finished: AtomicUsize,
}

/// One of the threads of a step.
pub struct Worker<'a> {
    /// None if there is only one thread.
    team: Option<&'a Team>,
    part: usize,
    /// Number of threads that were asked for. Fewer run if the system has no more.
    pub n_threads: usize,
}

/// Call `work` on `n_threads` threads, the caller's own among them. Each call does the same parts, at
/// most `n_parts`, in the same order.
pub fn run(n_threads: usize, n_parts: usize, work: impl Fn(&mut Worker<'_>) + Sync) {
    if n_threads <= 1 {
        return work(&mut Worker {
            team: None,
            part: 0,
            n_threads: 1,
        });
    }
    let team = Team {
        parts: (0..n_parts).map(|_| Part::default()).collect(),
        n_asleep: AtomicUsize::new(0),
        broken: AtomicBool::new(false),
        lock: Mutex::new(()),
        changed: Condvar::new(),
    };
    let run = || {
        let _breaks = BreaksOnPanic(&team);
        work(&mut Worker {
            team: Some(&team),
            part: 0,
            n_threads,
        });
    };
    thread::scope(|scope| {
        for _ in 1..n_threads {
            // Without another thread, those that run do all the work.
            if thread::Builder::new().spawn_scoped(scope, run).is_err() {
                break;
            }
        }
        run();
    });
}

impl Worker<'_> {
    /// Do the next part: call `unit` for the numbers below `n_units` that this thread claims. Return
    /// when all threads have finished theirs.
    pub fn each(&mut self, n_units: usize, mut unit: impl FnMut(usize)) {
        let Some(team) = self.team else {
            return (0..n_units).for_each(unit);
        };
        let part = &team.parts[self.part];
        self.part += 1;
        // A late thread must not count beyond what others have claimed without end.
        while part.n_claimed.load(SeqCst) < n_units {
            let i = part.n_claimed.fetch_add(1, SeqCst);
            if i >= n_units {
                break;
            }
            unit(i);
            if part.n_finished.fetch_add(1, SeqCst) + 1 == n_units {
                team.wake();
            }
        }
        team.wait(|| part.n_finished.load(SeqCst) == n_units);
    }
}

impl Team {
    fn wait(&self, is_done: impl Fn() -> bool) {
        let is_over = || is_done() || self.broken.load(SeqCst);
        for i in 0..SPINS + YIELDS {
            if is_over() {
                break;
            }
            if i < SPINS {
                hint::spin_loop();
            } else {
                thread::yield_now();
            }
        }
        if !is_over() {
            // First announce, then look again: whoever finishes the part looks for sleepers after it.
            self.n_asleep.fetch_add(1, SeqCst);
            let mut guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
            while !is_over() {
                guard = self
                    .changed
                    .wait(guard)
                    .unwrap_or_else(PoisonError::into_inner);
            }
            drop(guard);
            self.n_asleep.fetch_sub(1, SeqCst);
        }
        assert!(
            !self.broken.load(SeqCst),
            "another thread of the step panicked"
        );
    }

    fn wake(&self) {
        if self.n_asleep.load(SeqCst) > 0 {
            // A sleeper holds the lock from its last look until it sleeps.
            drop(self.lock.lock().unwrap_or_else(PoisonError::into_inner));
            self.changed.notify_all();
        }
    }
}

/// Releases the threads that wait for this one if it panics.
struct BreaksOnPanic<'a>(&'a Team);

impl Drop for BreaksOnPanic<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.broken.store(true, SeqCst);
            self.0.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    #[test]
    fn every_unit_runs_once_and_no_part_before_the_last_is_complete() {
        for n_threads in [1, 2, 3, 8] {
            let finished: Vec<AtomicUsize> = (0..200).map(|_| AtomicUsize::new(0)).collect();
            run(n_threads, 200, |worker| {
                for part in 0..200 {
                    worker.each(part % 7, |_| {
                        if part > 0 {
                            assert_eq!(finished[part - 1].load(SeqCst), (part - 1) % 7);
                        }
                        finished[part].fetch_add(1, SeqCst);
                    });
                }
            });
            assert!(
                finished
                    .iter()
                    .enumerate()
                    .all(|(i, n)| n.load(SeqCst) == i % 7)
            );
        }
    }

    #[test]
    fn threads_that_wait_long_sleep_and_are_woken() {
        let n = AtomicUsize::new(0);
        run(3, 2, |worker| {
            worker.each(1, |_| thread::sleep(std::time::Duration::from_millis(50)));
            worker.each(3, |_| {
                n.fetch_add(1, SeqCst);
            });
        });
        assert_eq!(n.load(SeqCst), 3);
    }

    #[test]
    fn a_panic_in_one_thread_ends_the_step() {
        let done = catch_unwind(AssertUnwindSafe(|| {
            run(3, 2, |worker| {
                worker.each(2, |i| assert_ne!(i, 1));
                worker.each(2, |_| ());
            });
        }));
        assert!(done.is_err());
    }
}
