//! Pre-tokenization: cutting text into pieces that BPE never merges across.
//!
//! The pre-tokens of any pattern, concatenated, are the text: nothing is dropped.

mod cl100k;
mod classes;
mod custom_regex;
mod cuts;
mod dialect;
mod gpt2;
mod matcher;
mod o200k;
mod published;
mod safe_cut;
mod shared;
mod simd;
mod sure;
mod visitor;

pub use self::cl100k::CL100K_REGEX;
pub use self::custom_regex::CustomRegex;
use self::dialect::Dialect;
pub use self::gpt2::GPT2_REGEX;
pub use self::o200k::O200K_REGEX;
pub use self::published::OLD_CL100K_REGEX;
pub use self::visitor::{BATCH_PIECES, Visitor};
use self::visitor::{OffsetVisitor, PieceBuffer};
use crate::error::Error;

/// How far from the end [`Pattern::safe_cut`] searches, in bytes.
pub const SAFE_CUT_REACH: usize = 1 << 16;

/// A split pattern: how text is cut into pre-tokens.
#[derive(Debug, Clone)]
pub enum Pattern {
    /// The matches of [`GPT2_REGEX`], found in linear time.
    Gpt2,
    /// The matches of [`CL100K_REGEX`], found in linear time.
    Cl100k,
    /// The matches of [`O200K_REGEX`], found in linear time.
    O200k,
    /// The matches of [`OLD_CL100K_REGEX`], found in linear time.
    OldCl100k,
    /// The whole text is one pre-token.
    None,
    /// The matches of a regular expression, and each stretch between two matches.
    Regex(Box<CustomRegex>),
}

impl Pattern {
    /// Create a pattern from its name (`"gpt2"`, `"cl100k"`, `"o200k"` or `"none"`), or from a regular
    /// expression in the syntax of the crate `fancy-regex`. The expressions that tiktoken has published
    /// are known by their text.
    ///
    /// # Errors
    /// Fails if `pattern` is neither a name nor a valid regular expression, or if Oniguruma has no
    /// expression of the same meaning.
    pub fn new(pattern: &str) -> Result<Self, Error> {
        // Build the table now: a process forked while another thread builds it would wait for it forever.
        classes::classes();
        match pattern {
            "gpt2" => Ok(Pattern::Gpt2),
            "cl100k" => Ok(Pattern::Cl100k),
            "o200k" => Ok(Pattern::O200k),
            "none" => Ok(Pattern::None),
            regex => match published::published(Dialect::FancyRegex, regex) {
                Some(known) => Ok(known),
                None => Ok(Pattern::Regex(Box::new(CustomRegex::new(regex)?))),
            },
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
            Some(known) => Ok(known),
            None => Pattern::new(&CustomRegex::from_oniguruma(regex)?),
        }
    }

    /// A regular expression that means in Oniguruma, and so in a `tokenizer.json`, what the pattern does.
    pub fn to_oniguruma(&self) -> String {
        match self {
            Pattern::Gpt2 => GPT2_REGEX.into(),
            Pattern::Cl100k => published::CL100K_IN_FILES.into(),
            Pattern::O200k => O200K_REGEX.into(),
            Pattern::OldCl100k => OLD_CL100K_REGEX.into(),
            Pattern::None => r"[\s\S]+".into(),
            Pattern::Regex(custom) => custom.to_oniguruma(),
        }
    }

    /// The name or the regular expression, as given to [`Pattern::new`].
    pub fn as_str(&self) -> &str {
        match self {
            Pattern::Gpt2 => "gpt2",
            Pattern::Cl100k => "cl100k",
            Pattern::O200k => "o200k",
            Pattern::OldCl100k => OLD_CL100K_REGEX,
            Pattern::None => "none",
            Pattern::Regex(custom) => custom.as_str(),
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
        !matches!(self, Pattern::Regex(_))
    }

    /// Call `visit` with each pre-token of `text`, in order. None of them is empty.
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
            Pattern::Gpt2 => gpt2::split(text, visitor),
            Pattern::Cl100k => split_by_scanner(cl100k::match_length, text, visitor),
            Pattern::OldCl100k => split_by_scanner(cl100k::old_match_length, text, visitor),
            Pattern::O200k => split_by_scanner(o200k::match_length, text, visitor),
            Pattern::None if text.is_empty() => Ok(()),
            Pattern::None => visitor.pieces(0, &[text.len()]),
            Pattern::Regex(custom) => custom.split(text, visitor),
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
        // `utf8_chunks` yields at most three invalid bytes at a time, so adjacent ones have to be joined:
        // [invalid_start, position) is the current run of invalid bytes.
        let mut position = 0;
        let mut invalid_start = 0;
        for chunk in bytes.utf8_chunks() {
            if !chunk.valid().is_empty() {
                if invalid_start < position {
                    visitor.pieces(invalid_start, &[position])?;
                }
                let mut visitor = OffsetVisitor {
                    visitor,
                    offset: position,
                };
                self.visit(chunk.valid(), &mut visitor)?;
                position += chunk.valid().len();
                invalid_start = position;
            }
            position += chunk.invalid().len();
        }
        if invalid_start < position {
            visitor.pieces(invalid_start, &[position])?;
        }
        Ok(())
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
            Pattern::Gpt2 | Pattern::Cl100k | Pattern::O200k | Pattern::OldCl100k => {
                safe_cut::last_in(text)
            }
            Pattern::None => None,
            Pattern::Regex(custom) => custom.safe_cut(text),
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

/// Split by a function that returns the length in bytes, never 0, of the match at the start of a text.
fn split_by_scanner(
    match_length: impl Fn(&str) -> usize,
    text: &str,
    visitor: &mut impl Visitor,
) -> Result<(), Error> {
    let mut pieces = PieceBuffer::new(visitor);
    let mut end = 0;
    while end < text.len() {
        end += match_length(&text[end..]);
        pieces.push(end)?;
    }
    pieces.flush()
}
