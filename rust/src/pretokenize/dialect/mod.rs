//! One meaning of a regular expression, in two dialects.
//!
//! Users write split patterns as tiktoken reads them: in the syntax of the crate `fancy-regex`. A
//! `tokenizer.json` holds regular expressions that Oniguruma reads, where the same text may mean
//! something else. So an expression in either dialect is parsed, and written again in what is common to
//! both: constructs whose text has one meaning. Anything else is refused, with its place.
//!
//! - `node`: an expression as a tree, and its text in the common dialect;
//! - `parser`, `group`, `class`, `escape`: from text to a tree.

mod class;
mod escape;
mod group;
mod node;
mod parser;

pub(super) use self::node::{Greed, GroupKind, Node, Repeat};
use self::parser::Parser;

/// How to read the text of a regular expression.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    /// The crate `fancy-regex`, which tiktoken uses.
    FancyRegex,
    /// Oniguruma with Ruby's syntax, which Hugging Face `tokenizers` uses.
    Oniguruma,
}

/// Why an expression is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    /// The position in the expression, in bytes.
    pub(super) at: usize,
    /// What is there, and what to write instead.
    pub(super) message: String,
}

impl Refusal {
    fn new<T>(at: usize, message: impl Into<String>) -> Result<T, Refusal> {
        let message = message.into();
        Err(Refusal { at, message })
    }

    /// Describe it, with its place in `pattern` counted in characters.
    pub(super) fn describe(&self, pattern: &str) -> String {
        let position = pattern[..self.at].chars().count();
        format!("at position {position}, {}", self.message)
    }
}

/// Parse `text`. The tree writes itself in the common dialect.
pub(super) fn parse(dialect: Dialect, text: &str) -> Result<Node, Refusal> {
    Parser::new(dialect, text).parse()
}

#[cfg(test)]
mod tests;
