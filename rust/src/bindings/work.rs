//! Work that Python waits for, without standing in its way.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use pyo3::exceptions::{PyKeyboardInterrupt, PyRuntimeError, PyValueError};
use pyo3::prelude::*;

use crate::error::{Error, catch_panics};

/// Below this the work is done before anyone could want to interrupt it.
const SHORT: usize = 4 << 10;
const LONG: usize = 256 << 10;

/// How often a long work is interrupted to ask for signals.
const PAUSE: Duration = Duration::from_millis(50);

/// Do `work` on a text of `n_bytes`, or of usize::MAX if they don't tell how long it will take.
///
/// Other Python threads can run meanwhile, unless it is very short. If it is long, it runs on another
/// thread while this one looks for signals: Ctrl-C sets the flag that `work` is given, and raises
/// KeyboardInterrupt once the work has ended. A panic, which is a bug here, becomes a RuntimeError.
pub fn interruptible<R: Send>(
    py: Python<'_>,
    n_bytes: usize,
    work: impl FnOnce(&AtomicBool) -> Result<R, Error> + Send,
) -> PyResult<R> {
    let stop = AtomicBool::new(false);
    let work = || catch_panics(|| work(&stop));
    let mut signal = Ok(());
    let done = if n_bytes < SHORT {
        work()
    } else if n_bytes < LONG {
        py.detach(work)
    } else {
        py.detach(|| {
            thread::scope(|scope| {
                let (sender, receiver) = channel();
                let spawned =
                    thread::Builder::new().spawn_scoped(scope, move || sender.send(work()));
                if let Err(error) = spawned {
                    let message = format!("no thread can be started: {error}");
                    return Err(Error::Memory(message));
                }
                loop {
                    match receiver.recv_timeout(PAUSE) {
                        Ok(done) => return done,
                        Err(RecvTimeoutError::Timeout) if signal.is_ok() => {
                            signal = Python::attach(|py| py.check_signals());
                            stop.store(signal.is_err(), Ordering::Relaxed);
                        }
                        Err(RecvTimeoutError::Timeout) => {}
                        Err(RecvTimeoutError::Disconnected) => {
                            unreachable!("the thread sends before it ends: panics are caught")
                        }
                    }
                }
            })
        })
    };
    signal?;
    done.map_err(value_error)
}

/// What Python raises for an error.
pub fn value_error(error: Error) -> PyErr {
    match error {
        Error::Interrupted => PyKeyboardInterrupt::new_err(()),
        Error::Bug(message) => PyRuntimeError::new_err(message),
        error => PyValueError::new_err(error.to_string()),
    }
}
