//! Special tokens in text, for callers that allow them there.

use std::sync::atomic::AtomicBool;

use aho_corasick::{AhoCorasick, MatchKind};

use crate::encode::Tokenizer;
use crate::error::Error;
use crate::util::interrupt::check;
use crate::util::memory::reserve;

/// Finds some special tokens in a text, in time that does not depend on how many they are.
///
/// It may depend on the longest name: what begins as that does may turn out to be a shorter name only
/// where the two differ, and is read anew from the end of the shorter one on. So the worst case is the
/// length of the text times that of the longest name.
pub struct SpecialFinder {
    automaton: AhoCorasick,
    /// In the order of the automaton's patterns.
    ids: Vec<u32>,
}

impl SpecialFinder {
    /// Look for these: names, none of which is empty, and ids. Of two that begin at the same place the
    /// longer one is found.
    pub fn new(special_tokens: &[(String, u32)]) -> Result<Self, Error> {
        let automaton = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .build(special_tokens.iter().map(|(name, _)| name))
            .map_err(|error| Error::Vocabulary(format!("too many special tokens: {error}")))?;
        let ids = special_tokens.iter().map(|&(_, id)| id).collect();
        Ok(SpecialFinder { automaton, ids })
    }

    /// Append the ids of `text` to `ids`: those of the special tokens found, and of each stretch between
    /// them those that it has as a text of its own.
    ///
    /// Fails if a regular expression gives up, or soon after `stop` has become
    /// true.
    pub fn encode_to(
        &self,
        tokenizer: &Tokenizer,
        text: &str,
        stop: &AtomicBool,
        ids: &mut Vec<u32>,
    ) -> Result<(), Error> {
        let mut start = 0;
        for found in self.automaton.find_iter(text) {
            check(stop)?;
            if start < found.start() {
                tokenizer.encode_to(&text[start..found.start()], stop, ids)?;
            }
            reserve(ids, 1)?;
            ids.push(self.ids[found.pattern().as_usize()]);
            start = found.end();
        }
        tokenizer.encode_to(&text[start..], stop, ids)
    }
}
