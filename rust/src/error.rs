//! What can go wrong, each in a sentence that a user can act on.

use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Every way in which this library refuses to do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// The split pattern is no regular expression, or gave up on the text.
    Pattern(String),
    /// The tokens can't make up a byte-level BPE vocabulary.
    Vocabulary(String),
    /// An id that stands for no token.
    UnknownId {
        /// The id as it was given, which may be negative or no integer at all.
        id: String,
        /// Where it stood in the list.
        position: usize,
        /// One more than the largest id there is.
        n_vocab: usize,
    },
    /// More bytes than a 32-bit position can address.
    TooLong(String),
    /// The system gave no memory.
    Memory(String),
    /// A temporary file can't be written or read.
    Disk(String),
    /// What was to be told of the progress failed.
    Callback(String),
    /// The caller asked for an end.
    Interrupted,
    /// A panic, which is a mistake in this library.
    Bug(String),
}

/// Do `work`; should it panic, here or in a thread that it waits for, that is an [`Error::Bug`].
///
/// What `work` has changed half-way must not be used afterwards.
pub fn catch_panics<R>(work: impl FnOnce() -> Result<R, Error>) -> Result<R, Error> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| Err(bug(panic.as_ref())))
}

fn bug(panic: &(dyn Any + Send)) -> Error {
    let what = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("an unknown panic");
    Error::Bug(format!(
        "a bug in gptfast's Rust code, please report it: {what}"
    ))
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Pattern(message)
            | Error::Vocabulary(message)
            | Error::TooLong(message)
            | Error::Memory(message)
            | Error::Disk(message)
            | Error::Callback(message)
            | Error::Bug(message) => f.write_str(message),
            Error::UnknownId {
                id,
                position,
                n_vocab,
            } => write!(
                f,
                "id {id} at position {position} stands for no token: expected an id of this \
                 vocabulary, from 0 to {}",
                *n_vocab as i64 - 1
            ),
            Error::Interrupted => f.write_str("the work was interrupted"),
        }
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;
    use crate::util::parallel::for_each;

    fn message<R: fmt::Debug>(of: Result<R, Error>) -> String {
        of.unwrap_err().to_string()
    }

    #[test]
    fn a_panic_becomes_an_error_that_says_what_it_was() {
        let made: Vec<u8> = Vec::new();
        let done = catch_panics(|| Ok(made[7]));
        let expected = "a bug in gptfast's Rust code, please report it: index out of bounds: the \
                        len is 0 but the index is 7";
        assert_eq!(message(done), expected);
        let done = catch_panics::<()>(|| panic!("said as it is"));
        assert!(message(done).ends_with("report it: said as it is"));
    }

    #[test]
    fn a_panic_in_another_thread_does_too() {
        let stop = AtomicBool::new(false);
        let done = catch_panics(|| {
            for_each(&mut [0, 1], 2, &stop, |_, i| match i {
                0 => panic!("thread {i}"),
                _ => Ok(()),
            })
        });
        assert!(message(done).ends_with("report it: thread 0"));
    }

    #[test]
    fn no_panic_changes_nothing() {
        assert_eq!(catch_panics(|| Ok(7)), Ok(7));
        assert_eq!(
            catch_panics(|| Err::<(), _>(Error::Interrupted)),
            Err(Error::Interrupted)
        );
    }
}
