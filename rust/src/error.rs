//! Errors, each with a message that tells the user what to do.

use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Everything that can go wrong in this crate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// The split pattern is not a valid regular expression, or gave up on the text.
    Pattern(String),
    /// The tokens are not a byte-level BPE vocabulary.
    Vocabulary(String),
    /// An id has no token.
    UnknownId {
        /// The id as given, which may be negative or not even an integer.
        id: String,
        /// Its position in the list.
        position: usize,
        /// One more than the largest id of the vocabulary.
        n_vocab: usize,
    },
    /// A text is of another type than expected.
    Kind(String),
    /// The input has more bytes than a 32-bit position can address.
    TooLong(String),
    /// A matrix and its vectors don't fit together.
    Shape(String),
    /// The system has no memory or thread left.
    Memory(String),
    /// A temporary file can't be written or read.
    Disk(String),
    /// The progress callback failed.
    Callback(String),
    /// The caller stopped the work.
    Interrupted,
    /// The code panicked, which is a bug in this crate.
    Bug(String),
}

impl Error {
    /// Say in the message that the error is about `texts[index]`.
    pub fn in_text(self, index: usize) -> Self {
        let at = |message| format!("texts[{index}]: {message}");
        match self {
            Error::Pattern(message) => Error::Pattern(at(message)),
            Error::Kind(message) => Error::Kind(format!("texts[{index}] {message}")),
            Error::TooLong(message) => Error::TooLong(at(message)),
            Error::Memory(message) => Error::Memory(at(message)),
            other => other,
        }
    }
}

/// Call `work`, and turn a panic in it, or in a thread that it joins, into an [`Error::Bug`].
///
/// After a panic, don't use anything that `work` was changing.
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
            | Error::Kind(message)
            | Error::TooLong(message)
            | Error::Shape(message)
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
    use super::*;
    use crate::util::context::Context;
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
        let done = catch_panics(|| {
            for_each(&Context::default(), &mut [0, 1], 2, |_, i| match i {
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
