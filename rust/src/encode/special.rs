//! Special tokens in text, for callers that allow them.

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
        for found in self.automaton.find_iter(text) {
            context.check()?;
            if start < found.start() {
                tokenizer.encode_to(context, &text[start..found.start()], ids)?;
            }
            try_reserve(ids, 1)?;
            ids.push(self.ids[found.pattern().as_usize()]);
            start = found.end();
        }
        tokenizer.encode_to(context, &text[start..], ids)
    }
}
