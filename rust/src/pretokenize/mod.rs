//! Pre-tokenization: cutting text into pieces that BPE never merges across.
//!
//! The pre-tokens of any pattern, concatenated, are the text: nothing is dropped.

mod classes;
mod custom_regex;
mod cuts;
mod deepseek;
mod dialect;
mod gpt2;
mod matcher;
mod matches;
mod published;
mod rules;
mod safe_cut;
mod scan;
mod scanner;
mod sequence;
mod simd;
mod split;
mod sure;
mod visitor;
mod window;
mod words;

pub use self::custom_regex::CustomRegex;
use self::dialect::Dialect;
pub(crate) use self::matches::{Matches, is_word};
pub use self::scanner::{SCANNERS, Scanner};
pub(crate) use self::sequence::Rewritten;
pub use self::sequence::Sequence;
pub(crate) use self::simd::Level;
pub use self::visitor::{BATCH_PIECES, Visitor};
pub(crate) use self::visitor::{OffsetVisitor, PieceBuffer};
use crate::error::Error;
use crate::normalize::Changed;

/// How far from the end [`Pattern::safe_cut`] searches, in bytes.
pub const SAFE_CUT_REACH: usize = 1 << 16;

/// A split pattern: how text is cut into pre-tokens.
#[derive(Debug, Clone)]
pub enum Pattern {
    /// A published pattern, by a scanner that takes linear time.
    Scanner(&'static Scanner),
    /// The whole text is one pre-token.
    None,
    /// The matches of a regular expression, and each stretch between two matches.
    Regex(Box<CustomRegex>),
    /// What the steps of a `pre_tokenizer` leave, one after another.
    Sequence(Box<Sequence>),
}

impl Pattern {
    /// Create a pattern from its name (that of one of [`SCANNERS`], or `"none"`), or from a regular
    /// expression in the syntax of the crate `fancy-regex`, or, if it begins with a brace, from the JSON of
    /// the `pre_tokenizer` of a `tokenizer.json`. Published patterns are known by their text.
    ///
    /// # Errors
    /// Fails if `pattern` is neither a name nor a valid regular expression, if Oniguruma has no expression
    /// of the same meaning, or if a `pre_tokenizer` has a part that isn't implemented, or drops text.
    pub fn new(pattern: &str) -> Result<Self, Error> {
        // Build the table now: a process forked while another thread builds it would wait for it forever.
        classes::classes();
        if pattern == "none" {
            return Ok(Pattern::None);
        }
        if pattern.starts_with('{') {
            return Sequence::from_json(pattern);
        }
        let named = scanner::scanner(pattern);
        match named.or_else(|| published::published(Dialect::FancyRegex, pattern)) {
            Some(scanner) => Ok(Pattern::Scanner(scanner)),
            None => Ok(Pattern::Regex(Box::new(CustomRegex::new(pattern)?))),
        }
    }

    /// Create a pattern from a regular expression as Oniguruma reads it, such as that of a
    /// `tokenizer.json`.
    ///
    /// # Errors
    /// Fails if there is no expression of the same meaning in the syntax of `fancy-regex`, or none that
    /// is known.
    pub fn from_oniguruma(regex: &str) -> Result<Self, Error> {
        match published::published(Dialect::Oniguruma, regex) {
            Some(scanner) => Ok(Pattern::Scanner(scanner)),
            None => Pattern::new(&CustomRegex::from_oniguruma(regex)?),
        }
    }

    /// A regular expression that means in Oniguruma, and so in a `tokenizer.json`, what the pattern does.
    ///
    /// # Errors
    /// Fails if several steps are needed.
    pub fn to_oniguruma(&self) -> Result<String, Error> {
        Ok(match self {
            Pattern::Scanner(scanner) => scanner.in_oniguruma.into(),
            Pattern::None => r"[\s\S]+".into(),
            Pattern::Regex(custom) => custom.to_oniguruma(),
            Pattern::Sequence(sequence) => {
                return Err(Error::Pattern(format!(
                    "no regular expression cuts text as the pre_tokenizer {} does: expected a pattern of \
                     one step",
                    sequence.json()
                )));
            }
        })
    }

    /// The name or the regular expression, as given to [`Pattern::new`].
    pub fn as_str(&self) -> &str {
        match self {
            Pattern::Scanner(scanner) => scanner.name,
            Pattern::None => "none",
            Pattern::Regex(custom) => custom.as_str(),
            Pattern::Sequence(sequence) => sequence.json(),
        }
    }

    /// Whether the matches are known to leave out no character of any text. Those of a scanner do not.
    pub fn matches_everything(&self) -> bool {
        match self {
            Pattern::Regex(custom) => custom.matches_everything(),
            _ => true,
        }
    }

    /// Whether splitting takes time in proportion to the length of the text. A user's regular expression
    /// may take seconds for a hundred bytes.
    pub fn is_linear(&self) -> bool {
        match self {
            Pattern::Regex(_) => false,
            Pattern::Sequence(sequence) => sequence.is_linear(),
            _ => true,
        }
    }

    /// Whether the pre-tokens are those of a changed text, which [`Pattern::rewrite`] returns.
    pub fn rewrites(&self) -> bool {
        matches!(self, Pattern::Sequence(sequence) if sequence.rewrites())
    }

    /// Whether what the pattern does to a text depends on whether it is the start of a whole text.
    pub fn depends_on_start(&self) -> bool {
        matches!(self, Pattern::Sequence(sequence) if sequence.depends_on_start())
    }

    /// Return the changed text and the ends of its pre-tokens, if the pattern changes texts. `is_first` tells
    /// whether it is the start of the whole text.
    ///
    /// # Errors
    /// As [`Pattern::split`].
    pub(crate) fn rewrite<C: Changed>(
        &self,
        text: impl FnOnce() -> C,
        is_first: bool,
    ) -> Result<Option<Rewritten<C>>, Error> {
        match self {
            Pattern::Sequence(sequence) if sequence.rewrites() => {
                sequence.rewrite(text(), is_first).map(Some)
            }
            _ => Ok(None),
        }
    }

    /// Call `visit` with each pre-token of `text`, in order. None of them is empty. A pattern that changes
    /// texts is refused.
    ///
    /// # Errors
    /// Fails if a regular expression backtracks too often or takes too long, or if `visit` fails.
    pub fn split<'t>(
        &self,
        text: &'t str,
        mut visit: impl FnMut(&'t str) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.visit(text, &mut |start, end| visit(&text[start..end]))
    }

    /// [`Pattern::split`] by positions in bytes, many pre-tokens at a time.
    ///
    /// # Errors
    /// As [`Pattern::split`].
    pub fn visit(&self, text: &str, visitor: &mut impl Visitor) -> Result<(), Error> {
        match self {
            Pattern::Scanner(scanner) => scanner.fills.split(text, visitor),
            Pattern::None if text.is_empty() => Ok(()),
            Pattern::None => visitor.pieces(0, &[text.len()]),
            Pattern::Regex(custom) => custom.split(text, visitor),
            Pattern::Sequence(sequence) if sequence.rewrites() => Err(Error::Pattern(format!(
                "the pre_tokenizer {} changes the text, so nothing can be learned with it: expected one \
                 that only cuts it",
                sequence.json()
            ))),
            Pattern::Sequence(sequence) => sequence.visit(text, visitor),
        }
    }

    /// [`Pattern::visit`] for bytes that need not be UTF-8.
    ///
    /// Each longest stretch of valid UTF-8 is cut as a separate text, and each run of invalid bytes
    /// between them is one pre-token.
    ///
    /// # Errors
    /// As [`Pattern::split`].
    pub fn visit_bytes(&self, bytes: &[u8], visitor: &mut impl Visitor) -> Result<(), Error> {
        stretches(bytes, |start, stretch| match std::str::from_utf8(stretch) {
            Ok(text) => {
                let mut visitor = OffsetVisitor {
                    visitor,
                    offset: start,
                };
                self.visit(text, &mut visitor)
            }
            Err(_) => visitor.pieces(start, &[start + stretch.len()]),
        })
    }

    /// Cut `text` at safe places into parts of at most `n_bytes`. Where there is no safe place, a part is
    /// longer, and ends soon after the next safe place.
    pub fn parts<'t>(&self, mut text: &'t [u8], n_bytes: usize) -> Vec<&'t [u8]> {
        let mut parts = Vec::new();
        while text.len() > n_bytes {
            let cut = self.cut_near(text, n_bytes);
            if cut == 0 {
                break;
            }
            let (part, rest) = text.split_at(cut);
            parts.push(part);
            text = rest;
        }
        parts.push(text);
        parts
    }

    /// Find a safe place to cut within the first `n_bytes` of `text`, or else one soon after the next safe
    /// place. Return 0 if there is none up to the end of the text.
    fn cut_near(&self, text: &[u8], n_bytes: usize) -> usize {
        let mut end = n_bytes;
        loop {
            let cut = self.safe_cut(&text[..end]);
            if cut > 0 || end == text.len() {
                return cut;
            }
            // Whether a place is safe depends on three characters, so the next stretch overlaps this one.
            end = text.len().min(end + SAFE_CUT_REACH - 16);
        }
    }

    /// Find the last safe place to cut `bytes`, which may be part of a longer text: whatever the text
    /// around them, it has the same pre-tokens as the two texts that cutting there makes.
    ///
    /// Return 0 if there is no safe place within the last [`SAFE_CUT_REACH`] bytes, or if none is known
    /// for the pattern.
    pub fn safe_cut(&self, bytes: &[u8]) -> usize {
        let last_in = |text: &str| match self {
            Pattern::Scanner(_) => safe_cut::last_in(text),
            Pattern::None => None,
            Pattern::Regex(custom) => custom.safe_cut(text),
            Pattern::Sequence(sequence) => {
                Some(sequence.safe_cut(text.as_bytes())).filter(|&at| at > 0)
            }
        };
        // A cut is always within valid UTF-8, so it separates no run of invalid bytes.
        let mut position = bytes.len().saturating_sub(SAFE_CUT_REACH);
        let mut cut = 0;
        for chunk in bytes[position..].utf8_chunks() {
            cut = last_in(chunk.valid()).map_or(cut, |at| position + at);
            position += chunk.valid().len() + chunk.invalid().len();
        }
        cut
    }
}

/// Pass each longest stretch of UTF-8 in `bytes`, and each run of invalid bytes between them, to `visit`, with
/// its position.
pub(crate) fn stretches<'b>(
    bytes: &'b [u8],
    mut visit: impl FnMut(usize, &'b [u8]) -> Result<(), Error>,
) -> Result<(), Error> {
    // `utf8_chunks` yields at most three invalid bytes at a time, so adjacent ones have to be joined:
    // [invalid_start, position) is the current run of invalid bytes.
    let mut position = 0;
    let mut invalid_start = 0;
    for chunk in bytes.utf8_chunks() {
        if !chunk.valid().is_empty() {
            if invalid_start < position {
                visit(invalid_start, &bytes[invalid_start..position])?;
            }
            visit(position, chunk.valid().as_bytes())?;
            position += chunk.valid().len();
            invalid_start = position;
        }
        position += chunk.invalid().len();
    }
    if invalid_start < position {
        visit(invalid_start, &bytes[invalid_start..])?;
    }
    Ok(())
}
