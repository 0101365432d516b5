//! Cutting a text at the matches of something: the behaviors of a Split.

use super::matches::Matches;
use super::visitor::PieceBuffer;
use super::{Pattern, Visitor};
use crate::error::Error;

/// What becomes of each match, if all text is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Behavior {
    /// It is a piece.
    Isolated,
    /// It is a piece together with the text before it. The second of two adjacent matches is one by itself.
    MergedWithPrevious,
    /// It is a piece together with the text after it.
    MergedWithNext,
    /// It is a piece together with the matches beside it.
    Contiguous,
}

/// Cuts a text into its matches and the text between them.
#[derive(Debug, Clone)]
pub(super) struct Split {
    pub(super) matches: Matches,
    pub(super) behavior: Behavior,
    /// Whether to take the text between matches for matches, and matches for the text between.
    pub(super) invert: bool,
}

impl Split {
    /// The pattern that cuts alike, if it is one.
    pub(super) fn as_pattern(&self) -> Option<Pattern> {
        match &self.matches {
            _ if self.behavior != Behavior::Isolated => None,
            Matches::Everything(pattern) => Some(pattern.clone()),
            Matches::Regex(custom) => Some(Pattern::Regex(custom.clone())),
            Matches::String(_) | Matches::Class(_) => None,
        }
    }

    /// Whether the pieces are the same wherever a piece is cut in two.
    pub(super) fn is_divisible(&self) -> bool {
        let is_class = matches!(self.matches, Matches::Class(_));
        is_class && matches!(self.behavior, Behavior::Isolated | Behavior::Contiguous)
    }

    /// Whether each match of a string begins a piece.
    pub(super) fn is_at_starts(&self) -> bool {
        matches!(self.matches, Matches::String(_)) && self.behavior == Behavior::MergedWithNext
    }

    /// Pass the pieces of `text` to `visitor`.
    pub(super) fn visit(&self, text: &str, visitor: &mut impl Visitor) -> Result<(), Error> {
        let mut pieces = PieceBuffer::new(visitor);
        // The text up to here is not pushed yet, and whether it is a match.
        let mut pending: Option<(usize, bool)> = None;
        self.matches.find(text, &mut |start, end, is_match| {
            if start == end {
                return pieces.flush();
            }
            let is_match = is_match != self.invert;
            if let Some((end, was_match)) = pending.take() {
                match self.behavior {
                    Behavior::MergedWithPrevious if is_match && !was_match => {}
                    Behavior::MergedWithNext if was_match && !is_match => {}
                    Behavior::Contiguous if was_match == is_match => {}
                    _ => pieces.push(end)?,
                }
            }
            let is_whole = match self.behavior {
                Behavior::Isolated => true,
                Behavior::MergedWithPrevious => is_match,
                Behavior::MergedWithNext => !is_match,
                Behavior::Contiguous => false,
            };
            match is_whole {
                true => pieces.push(end)?,
                false => pending = Some((end, is_match)),
            }
            Ok(())
        })?;
        if let Some((end, _)) = pending {
            pieces.push(end)?;
        }
        pieces.flush()
    }
}
