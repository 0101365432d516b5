//! Split patterns that users write: regular expressions.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use fancy_regex::{Regex, RegexInput};

use super::Visitor;
use super::cuts::Cuts;
use super::dialect::{self, Dialect, Node, Refusal};
use super::matcher::{Failure, Matcher};
use super::sure;
use crate::error::Error;

/// A regular expression written by a user.
#[derive(Debug, Clone)]
pub struct CustomRegex {
    regex: Regex,
    tree: Node,
    /// Where texts may be cut, if anywhere.
    cuts: Option<Cuts>,
    /// Whether to search position by position, so that a long search in vain can be interrupted. An
    /// expression that needs no backtracking takes linear time, and one search is faster.
    by_position: bool,
    /// For matches that are too long for `regex`, made when it first gives up.
    matcher: OnceLock<Option<Arc<Matcher>>>,
}

impl CustomRegex {
    /// Compile a regular expression of `fancy-regex`.
    ///
    /// # Errors
    /// Fails if it is not valid, or if Oniguruma has no expression of the same meaning.
    pub(super) fn new(pattern: &str) -> Result<Self, Error> {
        let parsed = dialect::parse(Dialect::FancyRegex, pattern);
        let regex = Regex::new(pattern).map_err(|_| {
            let why = match &parsed {
                Ok(_) => "it is too large when its counts are written out; use smaller counts".into(),
                Err(refusal) => refusal.describe(pattern),
            };
            Error::Pattern(format!(
                "the split pattern {pattern:?} is neither \"gpt2\", \"cl100k\", \"o200k\", \"none\" \
                 nor a valid regular expression: {why}"
            ))
        })?;
        let tree = parsed.map_err(|refusal| refused(pattern, &refusal))?;
        Ok(CustomRegex {
            regex,
            cuts: Cuts::new(&tree),
            // `regex_syntax` refuses what needs backtracking, but takes `x++` for `(?:x+)+`.
            by_position: tree.is_possessive() || regex_syntax::parse(pattern).is_err(),
            tree,
            matcher: OnceLock::new(),
        })
    }

    /// Translate a regular expression of Oniguruma.
    pub(super) fn from_oniguruma(pattern: &str) -> Result<String, Error> {
        let tree = dialect::parse(Dialect::Oniguruma, pattern);
        Ok(tree
            .map_err(|refusal| refused(pattern, &refusal))?
            .fancy_text())
    }

    /// Find the last place in `text` where a longer text may be cut.
    pub(super) fn safe_cut(&self, text: &str) -> Option<usize> {
        self.cuts.as_ref()?.last_in(text)
    }

    pub(super) fn as_str(&self) -> &str {
        self.regex.as_str()
    }

    /// An expression that means the same in Oniguruma.
    pub(super) fn to_oniguruma(&self) -> String {
        self.tree.text()
    }

    /// Whether the matches are known to leave out no character of any text.
    pub(super) fn matches_everything(&self) -> bool {
        sure::matches_everything(&self.tree)
    }

    /// Only a search by position can go on where the crate gives up.
    fn matcher(&self) -> Option<&Matcher> {
        let make = || Matcher::new(&self.tree).map(Arc::new);
        let matcher = self.by_position.then(|| self.matcher.get_or_init(make));
        matcher?.as_deref()
    }

    /// Pass the matches in `text`, and the text between them, to `visitor`.
    pub(super) fn split(&self, text: &str, visitor: &mut impl Visitor) -> Result<(), Error> {
        self.split_within(time_limit(text), text, visitor)
    }

    fn split_within(
        &self,
        limit: Duration,
        text: &str,
        visitor: &mut impl Visitor,
    ) -> Result<(), Error> {
        self.search(limit, text, |start, end, _| {
            if start < end {
                // Pass them one by one, so that the visitor can end it: a match may take very long.
                visitor.pieces(start, &[end])
            } else {
                visitor.pieces(start, &[])
            }
        })
    }

    /// Pass the start and the end of each match in `text`, and of the text between them, to `visit`, and
    /// whether it is a match. Empty ranges only give `visit` a chance to fail.
    pub(super) fn find_matches(
        &self,
        text: &str,
        visit: impl FnMut(usize, usize, bool) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.search(time_limit(text), text, visit)
    }

    /// Whether a match may be empty.
    pub(super) fn is_nullable(&self) -> bool {
        self.tree.is_nullable()
    }

    fn search(
        &self,
        limit: Duration,
        text: &str,
        mut visit: impl FnMut(usize, usize, bool) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let gave_up = |done: usize, why: &str| {
            Error::Pattern(format!(
                "the split pattern {:?} gave up on the text after byte {done}: {why}; use a pattern that \
                 backtracks less, or shorter texts",
                self.regex.as_str()
            ))
        };
        let too_many_steps = |done: usize| gave_up(done, "one match took too many steps");
        let start = Instant::now();
        let mut done = 0;
        let mut position = 0;
        let check =
            |done: usize, visit: &mut dyn FnMut(usize, usize, bool) -> Result<(), Error>| {
                visit(done, done, false)?;
                if start.elapsed() > limit {
                    return Err(gave_up(done, &format!("it took longer than {limit:?}")));
                }
                Ok(())
            };
        for step in 0usize.. {
            // Reading the clock takes a good part of the time that finding a word takes.
            if step.is_multiple_of(16) {
                check(done, &mut visit)?;
            }
            let input = RegexInput::new(text)
                .from_pos(position)
                .anchored(self.by_position);
            let found = match self.regex.find_input(input) {
                Ok(found) => found.map(|found| (found.start(), found.end())),
                Err(_) => {
                    let matcher = self.matcher().ok_or_else(|| too_many_steps(done))?;
                    let end = matcher.match_at(text, position, || check(done, &mut visit));
                    let end = end.map_err(|failure| match failure {
                        Failure::Stopped(error) => error,
                        Failure::TooManySteps => too_many_steps(done),
                    })?;
                    end.map(|end| (position, end))
                }
            };
            let next = match found {
                Some((_, end)) if position < end => Some(end),
                None if !self.by_position => None,
                // No match here, or an empty one: go on at the next character.
                _ => text[position..]
                    .chars()
                    .next()
                    .map(|c| position + c.len_utf8()),
            };
            let ends = found.map(|(start, end)| [(start, false), (end, true)]);
            for (end, is_match) in ends.into_iter().flatten() {
                if done < end {
                    visit(done, end, is_match)?;
                    done = end;
                }
            }
            match next {
                Some(next) => position = next,
                None => break,
            }
        }
        if done < text.len() {
            visit(done, text.len(), false)?;
        }
        Ok(())
    }
}

fn refused(pattern: &str, refusal: &Refusal) -> Error {
    let why = refusal.describe(pattern);
    Error::Pattern(format!(
        "the split pattern {pattern:?} can't be used: {why}"
    ))
}

/// How long a regular expression may work on a text: about a hundred times as long as usual.
///
/// The engine limits the backtracking of one match. But there may be one search for each character, and
/// each may read the rest of the text. The engine does not count these steps, so time is the limit.
fn time_limit(text: &str) -> Duration {
    Duration::from_secs(10)
        + Duration::from_micros(10) * u32::try_from(text.len()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_regex_that_takes_too_long_is_an_error() {
        for (pattern, finds) in [
            // Each match of one letter searches the rest of the text for a lower-case one.
            (".*[^A-Z]|[A-Z]", true),
            // Each attempt does the same here, and none is a match.
            ("(?=.*[a-z])A", false),
            // Each attempt takes all letters, and goes back.
            ("(?:A|B)++c", false),
            ("(?:A|B){1,}+c", false),
            ("(?:[^b]|B)*+c", false),
            ("(?>(?:A|B)+)c", false),
        ] {
            let custom = CustomRegex::new(pattern).unwrap();
            let text = "A".repeat(100_000);
            let (mut end, limit) = (0, Duration::from_millis(20));
            let result = custom.split_within(limit, &text, &mut |_, piece_end| {
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

    /// A visitor that ends the splitting after `left` calls without pre-tokens.
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
    fn a_search_in_vain_can_be_interrupted() {
        let text = "A".repeat(1000);
        for pattern in ["(?=.*[a-z])A", "(?=.*A)"] {
            let custom = CustomRegex::new(pattern).unwrap();
            let result = custom.split_within(Duration::MAX, &text, &mut Impatient { left: 2 });
            assert!(matches!(result, Err(Error::Interrupted)), "{result:?}");
        }
    }

    #[test]
    fn a_long_stretch_without_a_match_is_one_piece() {
        // The engine would count each position as backtracking, and give up after a million of them.
        let custom = CustomRegex::new(r"\d(?!x)").unwrap();
        let text = "a".repeat(1_100_000);
        let mut ends = Vec::new();
        let result = custom.split_within(Duration::MAX, &text, &mut |_, end| {
            ends.push(end);
            Ok(())
        });
        assert!(result.is_ok(), "{result:?}");
        assert_eq!(ends, [text.len()]);
    }

    /// The positions where matches begin and end, by the engine's own search.
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
        fn a_search_by_position_finds_the_same_matches(
            pattern in prop::sample::select(vec![
                r"\s+(?!\S)|\S+", r"(?=a)|b+", r"(?<=a)b", "(?!b)", r"(?:(?<=^)|(?<=a))b*",
                "ab(?= )|a", "a+", "a*",
            ]),
            text in "[abé \n]{0,20}",
        ) {
            let custom = CustomRegex::new(pattern).unwrap();
            let mut ends = Vec::new();
            custom.split_within(Duration::MAX, &text, &mut |_, end| {
                ends.push(end);
                Ok(())
            }).unwrap();
            prop_assert_eq!(ends, borders(&custom.regex, &text), "{:?} {:?}", pattern, text);
        }
    }
}
