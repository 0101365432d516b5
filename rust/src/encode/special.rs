//! Added tokens in text: special ones, for callers that allow them, and those that any text may contain.

use std::ops::Range;

use aho_corasick::{AhoCorasick, MatchKind};

use super::Tokenizer;
use crate::error::Error;
use crate::util::context::Context;
use crate::util::memory::try_reserve;

/// Finds special tokens in a text. The time does not depend on how many special tokens there are.
///
/// It may depend on the longest name: text that begins like a long name may turn out to be a shorter
/// one, and is then read again from the end of the shorter one on. So the worst case is the length of
/// the text times the length of the longest name.
pub struct SpecialFinder {
    automaton: AhoCorasick,
    /// In the order of the automaton's patterns.
    ids: Vec<u32>,
}

impl SpecialFinder {
    /// Find these names, none of which is empty. If two of them begin at the same place, the longer one
    /// is found.
    ///
    /// # Errors
    /// Fails if there are too many names for an automaton.
    pub fn new(special_tokens: &[(String, u32)]) -> Result<Self, Error> {
        let automaton = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .build(special_tokens.iter().map(|(name, _)| name))
            .map_err(|error| Error::Vocabulary(format!("too many special tokens: {error}")))?;
        let ids = special_tokens.iter().map(|&(_, id)| id).collect();
        Ok(SpecialFinder { automaton, ids })
    }

    /// The places of the tokens in `text` and their ids, from left to right.
    pub(super) fn find<'a>(
        &'a self,
        text: &'a [u8],
    ) -> impl Iterator<Item = (Range<usize>, u32)> + 'a {
        let found = self.automaton.find_iter(text);
        found.map(|found| (found.range(), self.ids[found.pattern().as_usize()]))
    }

    /// Append the ids of `text` to `ids`: those of the special tokens found, and those of the text
    /// between them, each stretch of which is encoded as a separate text.
    ///
    /// # Errors
    /// As [`Tokenizer::encode_to`].
    pub fn encode_to(
        &self,
        context: &Context,
        tokenizer: &Tokenizer,
        text: &str,
        ids: &mut Vec<u32>,
    ) -> Result<(), Error> {
        let mut start = 0;
        for (found, id) in self.find(text.as_bytes()) {
            context.check()?;
            if start < found.start {
                tokenizer.encode_to(context, &text[start..found.start], ids)?;
            }
            try_reserve(ids, 1)?;
            ids.push(id);
            start = found.end;
        }
        tokenizer.encode_to(context, &text[start..], ids)
    }
}

/// The tokens that any text may contain.
pub(super) struct AddedTokens {
    pub(super) finder: SpecialFinder,
    /// Finds them even where they overlap.
    overlapping: AhoCorasick,
    /// The number of bytes of the longest name.
    longest: usize,
}

/// The bytes of the two characters on each side of a cut that the patterns look at.
const LOOKED_AT: usize = 8;

impl AddedTokens {
    /// Find these names, as [`SpecialFinder::new`] does.
    ///
    /// # Errors
    /// Fails if there are too many names for an automaton.
    pub(super) fn new(tokens: &[(String, u32)]) -> Result<Self, Error> {
        let names = tokens.iter().map(|(name, _)| name);
        let longest = names.clone().map(String::len).max().unwrap_or(0);
        let overlapping = AhoCorasick::new(names)
            .map_err(|error| Error::Vocabulary(format!("too many added tokens: {error}")))?;
        Ok(AddedTokens {
            finder: SpecialFinder::new(tokens)?,
            overlapping,
            longest,
        })
    }

    /// Whether no text that contains `data` has a token at the cut, or so near that the pattern would see
    /// another text there.
    pub(super) fn are_far_from(&self, data: &[u8], cut: usize) -> bool {
        let reach = LOOKED_AT + self.longest;
        if cut < reach || cut + reach > data.len() {
            return false;
        }
        let around = &data[cut - reach..cut + reach];
        let mut found = self.overlapping.find_overlapping_iter(around);
        found.all(|token| token.end() + LOOKED_AT <= reach || token.start() >= reach + LOOKED_AT)
    }
}
