//! What can go wrong, each in a sentence that a user can act on.

use std::fmt;

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
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Pattern(message)
            | Error::Vocabulary(message)
            | Error::TooLong(message)
            | Error::Memory(message)
            | Error::Disk(message)
            | Error::Callback(message) => f.write_str(message),
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
