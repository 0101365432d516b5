//! What a pre-tokenizer or a normalizer looks for in a text.

use std::sync::LazyLock;

use serde_json::Value;

use super::classes::unicode_class;
use super::matcher::CharSet;
use super::{CustomRegex, Pattern};
use crate::error::Error;

/// Finds things in a text.
#[derive(Debug, Clone)]
pub(crate) enum Matches {
    /// A string, which is not empty.
    String(Box<str>),
    /// A regular expression that may match nothing at some places.
    Regex(Box<CustomRegex>),
    /// A pattern whose matches leave out no character of any text.
    Everything(Pattern),
    /// Each character of a class.
    Class(fn(char) -> bool),
}

/// Whether `tokenizers` takes a character for punctuation: ASCII punctuation, and the general categories P of
/// Unicode 8.0, whose tables it has.
pub(super) fn is_punctuation(c: char) -> bool {
    static BEYOND: LazyLock<CharSet> =
        LazyLock::new(|| CharSet::new(&unicode_class(r"[[\p{P}\u{166d}\u{111c9}]&&\p{Age=8.0}]")));
    c.is_ascii_punctuation() || !c.is_ascii() && BEYOND.contains(c)
}

/// Whether a character is part of a word, as `\w` takes it.
pub(crate) fn is_word(c: char) -> bool {
    static WORD: LazyLock<CharSet> = LazyLock::new(|| CharSet::new(&unicode_class(r"\w")));
    WORD.contains(c)
}

impl Matches {
    /// Read the `pattern` of a Split or a Replace, which `part` has.
    ///
    /// # Errors
    /// Fails if it is neither a String nor a Regex, or if it matches the empty string and may not.
    pub(crate) fn from_json(
        part: &str,
        pattern: &Value,
        may_be_empty: bool,
    ) -> Result<Self, Error> {
        let empty = || {
            Error::Pattern(format!(
                "the {part} has the pattern {pattern}, which matches the empty string: expected one \
                 that matches at least one character"
            ))
        };
        let regex = match pattern["String"].as_str() {
            Some("") => Some(""),
            Some(text) => return Ok(Matches::String(text.into())),
            None => pattern["Regex"].as_str(),
        };
        let regex = regex.ok_or_else(|| {
            Error::Pattern(format!(
                "the {part} has the pattern {pattern}: expected a String or a Regex"
            ))
        })?;
        let pattern = Pattern::from_oniguruma(regex)?;
        match pattern {
            Pattern::Regex(custom) if custom.is_nullable() && !may_be_empty => Err(empty()),
            Pattern::Regex(custom) if !custom.matches_everything() => Ok(Matches::Regex(custom)),
            pattern => Ok(Matches::Everything(pattern)),
        }
    }

    /// Pass the start and the end of each match in `text`, and of the text between them, to `visit`, and
    /// whether it is a match. An empty range only gives `visit` a chance to fail.
    ///
    /// # Errors
    /// Fails if a regular expression gives up on the text, or if `visit` fails.
    pub(crate) fn find(
        &self,
        text: &str,
        visit: &mut dyn FnMut(usize, usize, bool) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut done = 0;
        let mut found = |start: usize, end: usize| {
            if done < start {
                visit(done, start, false)?;
            }
            done = end;
            visit(start, end, true)
        };
        match self {
            Matches::Regex(custom) => return custom.find_matches(text, visit),
            Matches::Everything(pattern) => {
                return pattern.visit(text, &mut |start, end| visit(start, end, true));
            }
            Matches::String(string) => {
                for (start, _) in text.match_indices(&**string) {
                    found(start, start + string.len())?;
                }
            }
            Matches::Class(class) => {
                for (start, c) in text.char_indices() {
                    if class(c) {
                        found(start, start + c.len_utf8())?;
                    }
                }
            }
        }
        if done < text.len() {
            visit(done, text.len(), false)?;
        }
        Ok(())
    }
}
