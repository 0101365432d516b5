//! Cutting text into pre-tokens, the stretches that BPE never merges across.
//!
//! Whatever the pattern, the pre-tokens laid end to end are the text: nothing is dropped.

mod cl100k;
mod classes;
mod gpt2;
mod o200k;
mod safe_cut;
mod shared;
mod simd;

use std::time::{Duration, Instant};

use fancy_regex::{Regex, RegexInput};

pub use self::cl100k::CL100K_REGEX;
pub use self::gpt2::GPT2_REGEX;
pub use self::o200k::O200K_REGEX;
use crate::error::Error;

/// How far from the end [`Pattern::safe_cut`] looks for a place.
pub const SAFE_CUT_REACH: usize = 1 << 16;

/// How text is cut.
#[derive(Debug, Clone)]
pub enum Pattern {
    /// The matches of [`GPT2_REGEX`], found in linear time.
    Gpt2,
    /// The matches of [`CL100K_REGEX`], found in linear time.
    Cl100k,
    /// The matches of [`O200K_REGEX`], found in linear time.
    O200k,
    /// The whole text is one pre-token.
    None,
    /// The matches of a regular expression, and each stretch between two matches.
    Regex(Box<Custom>),
}

/// A regular expression that a user made up.
#[derive(Debug, Clone)]
pub struct Custom {
    regex: Regex,
    /// Whether a search must be taken place by place to be interrupted: it may go on and on from every
    /// place in vain. Expressions that need no backtracking take linear time and are faster as a whole.
    place_by_place: bool,
}

impl Custom {
    fn new(pattern: &str) -> Result<Self, fancy_regex::Error> {
        // `\G` is the place where the last match ended, and would be every place.
        let place_by_place = regex_syntax::parse(pattern).is_err() && !pattern.contains(r"\G");
        Ok(Custom {
            regex: Regex::new(pattern)?,
            place_by_place,
        })
    }
}

impl Pattern {
    /// `"gpt2"`, `"cl100k"`, `"o200k"`, `"none"`, or else a regular expression in the syntax of the
    /// crate `fancy-regex`.
    pub fn new(pattern: &str) -> Result<Self, Error> {
        // Made now: a process that is forked while another thread makes the table would wait for it.
        classes::classes();
        match pattern {
            "gpt2" => Ok(Pattern::Gpt2),
            "cl100k" => Ok(Pattern::Cl100k),
            "o200k" => Ok(Pattern::O200k),
            "none" => Ok(Pattern::None),
            regex => Custom::new(regex)
                .map(|custom| Pattern::Regex(Box::new(custom)))
                .map_err(|error| {
                    Error::Pattern(format!(
                        "the split pattern {regex:?} is neither \"gpt2\", \"cl100k\", \
                         \"o200k\", \"none\" nor a valid regular expression: {error}"
                    ))
                }),
        }
    }

    /// What [`Pattern::new`] was given.
    pub fn as_str(&self) -> &str {
        match self {
            Pattern::Gpt2 => "gpt2",
            Pattern::Cl100k => "cl100k",
            Pattern::O200k => "o200k",
            Pattern::None => "none",
            Pattern::Regex(custom) => custom.regex.as_str(),
        }
    }

    /// Whether the time that a text takes is in proportion to its length. A regular expression that a
    /// user made up may take seconds for a hundred bytes.
    pub fn is_linear(&self) -> bool {
        !matches!(self, Pattern::Regex(_))
    }

    /// Hand each pre-token of `text` to `visit`, in order. None is empty.
    ///
    /// Fails if a regular expression backtracks too often or takes too long, or if `visit` fails.
    pub fn split<'t>(
        &self,
        text: &'t str,
        mut visit: impl FnMut(&'t str) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.visit(text, &mut |start, end| visit(&text[start..end]))
    }

    /// [`Pattern::split`] by positions in bytes.
    pub fn visit(&self, text: &str, visitor: &mut impl Visitor) -> Result<(), Error> {
        match self {
            Pattern::Gpt2 => gpt2::split(text, visitor),
            Pattern::Cl100k => split_by_scanner(cl100k::match_length, text, visitor),
            Pattern::O200k => split_by_scanner(o200k::match_length, text, visitor),
            Pattern::None if text.is_empty() => Ok(()),
            Pattern::None => visitor.pieces(0, &[text.len()]),
            Pattern::Regex(custom) => split_by_regex(custom, text, time_limit(text), visitor),
        }
    }

    /// [`Pattern::visit`] for bytes that need not be UTF-8.
    ///
    /// Each maximal stretch of valid UTF-8 is cut as if it stood alone; each maximal run of invalid
    /// bytes between them is one pre-token, like a run of punctuation.
    pub fn visit_bytes(&self, bytes: &[u8], visitor: &mut impl Visitor) -> Result<(), Error> {
        // `utf8_chunks` yields (valid, invalid) pairs with at most three invalid bytes each, so the
        // invalid runs have to be joined: [invalid_start, position) is the run seen so far.
        let mut position = 0;
        let mut invalid_start = 0;
        for chunk in bytes.utf8_chunks() {
            if !chunk.valid().is_empty() {
                if invalid_start < position {
                    visitor.pieces(invalid_start, &[position])?;
                }
                let mut shifted = Shifted {
                    visitor,
                    by: position,
                };
                self.visit(chunk.valid(), &mut shifted)?;
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

    /// Parts of at most `n_bytes`, cut at safe places; end to end they are `text`. Where there is no such
    /// place, a part is longer, and ends little after the next one.
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

    /// A safe place within the first `n_bytes` of `text`, or else one not far behind the next one; 0 if
    /// there is none up to the end.
    fn cut_near(&self, text: &[u8], n_bytes: usize) -> usize {
        let mut end = n_bytes;
        loop {
            let cut = self.safe_cut(&text[..end]);
            if cut > 0 || end == text.len() {
                return cut;
            }
            // What is looked at next overlaps with this by more than the three characters that tell a
            // place.
            end = text.len().min(end + SAFE_CUT_REACH - 16);
        }
    }

    /// The last safe place to cut a text of which `bytes` are a part, as an index within `bytes`: any
    /// text around them has the same pre-tokens whether it is split whole or as two texts cut there.
    /// 0 if there is none within the last [`SAFE_CUT_REACH`] bytes, or none known for the pattern.
    pub fn safe_cut(&self, bytes: &[u8]) -> usize {
        match self {
            Pattern::Gpt2 | Pattern::Cl100k | Pattern::O200k => {
                // What is cut in two is always one stretch of UTF-8, which `visit_bytes` keeps whole.
                let mut position = bytes.len().saturating_sub(SAFE_CUT_REACH);
                let mut cut = 0;
                for chunk in bytes[position..].utf8_chunks() {
                    cut = safe_cut::last_in(chunk.valid()).map_or(cut, |at| position + at);
                    position += chunk.valid().len() + chunk.invalid().len();
                }
                cut
            }
            Pattern::None | Pattern::Regex(_) => 0,
        }
    }
}

/// The most pre-tokens that a [`Visitor`] is handed at once.
pub const BATCH: usize = 128;

/// What is done with the pre-tokens.
///
/// It gets many at a time, since what is done with one of them can then be done for all before the
/// next thing is done: while memory answers for the first, it can be asked for the others.
pub trait Visitor {
    /// Take pre-tokens that lie end to end, in bytes: the first begins at `start`, and each ends where
    /// `ends` says, which has at most [`BATCH`] places. An error ends the splitting. With no place at all
    /// nothing is handed over, but the visitor may end it.
    fn pieces(&mut self, start: usize, ends: &[usize]) -> Result<(), Error>;
}

impl<F: FnMut(usize, usize) -> Result<(), Error>> Visitor for F {
    #[inline(always)]
    fn pieces(&mut self, mut start: usize, ends: &[usize]) -> Result<(), Error> {
        for &end in ends {
            self(start, end)?;
            start = end;
        }
        Ok(())
    }
}

/// A visitor to a part of a text, which begins `by` bytes after the text.
struct Shifted<'v, V> {
    visitor: &'v mut V,
    by: usize,
}

impl<V: Visitor> Visitor for Shifted<'_, V> {
    fn pieces(&mut self, start: usize, ends: &[usize]) -> Result<(), Error> {
        let mut shifted = [0; BATCH];
        for (shifted, &end) in shifted.iter_mut().zip(ends) {
            *shifted = self.by + end;
        }
        self.visitor.pieces(self.by + start, &shifted[..ends.len()])
    }
}

/// Pre-tokens on their way to a visitor.
struct Gather<'v, V> {
    visitor: &'v mut V,
    start: usize,
    ends: [usize; BATCH],
    n: usize,
}

impl<'v, V: Visitor> Gather<'v, V> {
    #[inline(always)]
    fn new(visitor: &'v mut V) -> Self {
        Gather {
            visitor,
            start: 0,
            ends: [0; BATCH],
            n: 0,
        }
    }

    /// Take one pre-token more, which ends at `end`.
    #[inline(always)]
    fn push(&mut self, end: usize) -> Result<(), Error> {
        self.ends[self.n] = end;
        self.n += 1;
        if self.n == BATCH {
            self.hand_on()?;
        }
        Ok(())
    }

    /// Hand all pre-tokens taken so far to the visitor.
    #[inline(always)]
    fn hand_on(&mut self) -> Result<(), Error> {
        let ends = &self.ends[..self.n];
        if let Some(&last) = ends.last() {
            self.visitor.pieces(self.start, ends)?;
            self.start = last;
            self.n = 0;
        }
        Ok(())
    }
}

/// `match_length` gives the length in bytes, never 0, of the match at the start of a text.
fn split_by_scanner(
    match_length: impl Fn(&str) -> usize,
    text: &str,
    visitor: &mut impl Visitor,
) -> Result<(), Error> {
    let mut pieces = Gather::new(visitor);
    let mut end = 0;
    while end < text.len() {
        end += match_length(&text[end..]);
        pieces.push(end)?;
    }
    pieces.hand_on()
}

/// How long a regular expression may work on a text: a hundred times as long as is usual.
///
/// The engine limits how often it backtracks in one match, but there may be as many tries as there are
/// characters, and each may read all that follows. It does not count its steps, so time has to tell.
fn time_limit(text: &str) -> Duration {
    Duration::from_secs(10)
        + Duration::from_micros(10) * u32::try_from(text.len()).unwrap_or(u32::MAX)
}

fn split_by_regex(
    custom: &Custom,
    text: &str,
    limit: Duration,
    visitor: &mut impl Visitor,
) -> Result<(), Error> {
    let gave_up = |done: usize, why: String| {
        Error::Pattern(format!(
            "the split pattern {:?} gave up on the text after byte {done}: {why}; use a pattern that \
             backtracks less, or shorter texts",
            custom.regex.as_str()
        ))
    };
    let start = Instant::now();
    let mut done = 0;
    let mut place = 0;
    for step in 0usize.. {
        // Asking for the time takes a fair part of what finding a word does.
        if step.is_multiple_of(16) {
            visitor.pieces(done, &[])?;
            if start.elapsed() > limit {
                return Err(gave_up(done, format!("it took longer than {limit:?}")));
            }
        }
        let input = RegexInput::new(text)
            .from_pos(place)
            .anchored(custom.place_by_place);
        let found = custom.regex.find_input(input);
        let found = found.map_err(|error| gave_up(done, error.to_string()))?;
        let next = match &found {
            Some(found) if place < found.end() => Some(found.end()),
            None if !custom.place_by_place => None,
            // After a place where nothing, or a match of nothing, was found.
            _ => text[place..].chars().next().map(|c| place + c.len_utf8()),
        };
        for end in found.iter().flat_map(|found| [found.start(), found.end()]) {
            if done < end {
                // One by one, so that the visitor may end it: a match can take very long.
                visitor.pieces(done, &[end])?;
                done = end;
            }
        }
        match next {
            Some(next) => place = next,
            None => break,
        }
    }
    if done < text.len() {
        visitor.pieces(done, &[text.len()])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_regex_that_takes_too_long_is_an_error() {
        for (pattern, finds) in [
            // Each match of one letter looks for a lower-case one until the end of the text.
            (".*[^A-Z]|[A-Z]", true),
            // So does each try here, and none is a match.
            ("(?=.*[a-z])A", false),
        ] {
            let custom = Custom::new(pattern).unwrap();
            let text = "A".repeat(100_000);
            let (mut end, limit) = (0, Duration::from_millis(20));
            let result = split_by_regex(&custom, &text, limit, &mut |_, piece_end| {
                end = piece_end;
                Ok(())
            });
            let expected =
                format!("gave up on the text after byte {end}: it took longer than 20ms");
            assert!(
                matches!(&result, Err(Error::Pattern(message)) if message.contains(&expected)),
                "{result:?}"
            );
            assert_eq!(0 < end, finds);
            assert!(end < text.len());
            assert_eq!(time_limit(&text), Duration::from_secs(11));
        }
    }

    /// A visitor that ends the splitting when it has been asked `left` times with nothing new.
    struct Impatient {
        left: usize,
    }

    impl Visitor for Impatient {
        fn pieces(&mut self, _start: usize, ends: &[usize]) -> Result<(), Error> {
            if ends.is_empty() {
                self.left = self.left.checked_sub(1).ok_or(Error::Interrupted)?;
            }
            Ok(())
        }
    }

    #[test]
    fn a_search_in_vain_can_be_ended() {
        let text = "A".repeat(1000);
        for pattern in ["(?=.*[a-z])A", "(?=.*A)"] {
            let custom = Custom::new(pattern).unwrap();
            let result = split_by_regex(&custom, &text, Duration::MAX, &mut Impatient { left: 2 });
            assert!(matches!(result, Err(Error::Interrupted)), "{result:?}");
        }
    }

    #[test]
    fn a_long_stretch_without_a_match_is_one_piece() {
        // The engine would count each place as a step back, and give up after a million of them.
        let custom = Custom::new(r"\d(?!x)").unwrap();
        let text = "a".repeat(1_100_000);
        let mut ends = Vec::new();
        let result = split_by_regex(&custom, &text, Duration::MAX, &mut |_, end| {
            ends.push(end);
            Ok(())
        });
        assert!(result.is_ok(), "{result:?}");
        assert_eq!(ends, [text.len()]);
    }

    /// Where the matches of a regular expression begin and end, by the engine's own search.
    fn borders(regex: &Regex, text: &str) -> Vec<usize> {
        let mut borders: Vec<usize> = regex
            .find_iter(text)
            .map(Result::unwrap)
            .flat_map(|found| [found.start(), found.end()])
            .chain([text.len()])
            .filter(|&border| border > 0)
            .collect();
        borders.dedup();
        borders
    }

    proptest! {
        #[test]
        fn place_by_place_the_matches_are_the_same(
            pattern in prop::sample::select(vec![
                r"\s+(?!\S)|\S+", r"(?=a)|b+", r"(?<=a)b", r"(a|é)\1", "(?!b)", r"(?<=^|a)b*", "ab(?= )|a",
                r"\G(?!b)a", "a+", "a*",
            ]),
            text in "[abé \n]{0,20}",
        ) {
            let custom = Custom::new(pattern).unwrap();
            let mut ends = Vec::new();
            split_by_regex(&custom, &text, Duration::MAX, &mut |_, end| {
                ends.push(end);
                Ok(())
            }).unwrap();
            prop_assert_eq!(ends, borders(&custom.regex, &text), "{:?} {:?}", pattern, text);
        }
    }
}
