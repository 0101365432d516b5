//! Long work that releases the GIL and can be interrupted.

use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use pyo3::exceptions::{PyKeyboardInterrupt, PyRuntimeError, PyValueError};
use pyo3::prelude::*;

use crate::error::{Error, catch_panics};
use crate::util::context::Context;

/// Texts below this size, in bytes, are processed without releasing the GIL.
const SHORT: usize = 4 << 10;

/// Texts from this size on, in bytes, take long enough that someone may want to interrupt the work.
const LONG: usize = 256 << 10;

/// How often to check for signals.
const SIGNAL_INTERVAL: Duration = Duration::from_millis(50);

/// Call `work`, which processes `n_bytes` of text; usize::MAX if the size doesn't tell how long it takes.
///
/// Unless the text is short, the GIL is released. If it is long, `work` runs on another thread while this
/// one checks for signals: Ctrl-C stops `context`, and raises KeyboardInterrupt once `work` has returned.
/// A panic, which is a bug in this crate, becomes a RuntimeError.
pub fn interruptible<R: Send>(
    py: Python<'_>,
    context: &Context,
    n_bytes: usize,
    work: impl FnOnce() -> Result<R, Error> + Send,
) -> PyResult<R> {
    let work = || catch_panics(work);
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
                    match receiver.recv_timeout(SIGNAL_INTERVAL) {
                        Ok(done) => return done,
                        Err(RecvTimeoutError::Timeout) if signal.is_ok() => {
                            signal = Python::attach(|py| py.check_signals());
                            if signal.is_err() {
                                context.stop();
                            }
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
    done.map_err(to_py_err)
}

/// Convert an error to the Python exception to raise.
pub fn to_py_err(error: Error) -> PyErr {
    match error {
        Error::Interrupted => PyKeyboardInterrupt::new_err(()),
        Error::Bug(message) => PyRuntimeError::new_err(message),
        error => PyValueError::new_err(error.to_string()),
    }
}
