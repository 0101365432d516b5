//! Added tokens in text: special ones, for callers that allow them, and those that any text may contain.

use std::ops::Range;

use aho_corasick::{AhoCorasick, MatchKind};

use crate::error::Error;
use crate::normalize::Normalizer;
use crate::pretokenize::is_word;

/// A token that is found in text by its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddedToken {
    /// Its name, which is not empty.
    pub name: String,
    /// Its id.
    pub id: u32,
    /// Whether it is found only where a caller allows it.
    pub special: bool,
    /// Whether its normalized name is found in the normalized text, after the other tokens are found.
    pub normalized: bool,
    /// Whether it takes the white space before it.
    pub lstrip: bool,
    /// Whether it takes the white space after it.
    pub rstrip: bool,
    /// Whether it is found only where no word goes on beside it.
    pub single_word: bool,
}

impl AddedToken {
    /// A special token that is found wherever its name is.
    pub fn special(name: String, id: u32) -> Self {
        AddedToken {
            name,
            id,
            special: true,
            normalized: false,
            lstrip: false,
            rstrip: false,
            single_word: false,
        }
    }
}

/// Finds added tokens in a text. The time does not depend on how many there are.
///
/// It may depend on the longest name: text that begins like a long name may turn out to be a shorter
/// one, and is then read again from the end of the shorter one on. So the worst case is the length of
/// the text times the length of the longest name.
#[derive(Debug)]
pub struct TokenFinder {
    /// Finds tokens in a text as it is.
    pub(super) raw: Option<Pass>,
    /// Finds tokens in what the normalizer makes of the text between those.
    pub(super) normalized: Option<Pass>,
}

/// Finds some tokens in a text: of those that begin first, the longest.
#[derive(Debug)]
pub(super) struct Pass {
    automaton: AhoCorasick,
    /// In the order of the automaton's patterns.
    tokens: Vec<Rule>,
    /// The number of bytes of the longest name.
    longest: usize,
    /// Finds them even where they overlap.
    overlapping: AhoCorasick,
}

/// How a token is found.
#[derive(Debug)]
struct Rule {
    id: u32,
    is_skipped: bool,
    lstrip: bool,
    rstrip: bool,
    single_word: bool,
}

/// The bytes of the two characters on each side of a cut that the patterns look at.
pub(super) const LOOKED_AT: usize = 8;

impl TokenFinder {
    /// Find these tokens; a skipped one is found, but left in the text. Return None if nothing can be found.
    ///
    /// # Errors
    /// Fails if there are too many names for an automaton, if a normalized name is empty, or if two
    /// normalized names are the same.
    pub fn new<'t>(
        tokens: impl IntoIterator<Item = (&'t AddedToken, bool)>,
        normalizer: Option<&Normalizer>,
    ) -> Result<Option<Self>, Error> {
        let (mut raw, mut normalized) = (Vec::new(), Vec::new());
        for (token, is_skipped) in tokens {
            let name = match (token.normalized, normalizer) {
                (true, Some(normalizer)) => normalizer.normalize(&token.name)?.into_owned(),
                _ => token.name.clone(),
            };
            if name.is_empty() {
                return Err(Error::Vocabulary(format!(
                    "the added token {:?} is empty when it is normalized: expected a name of which the \
                     normalizer leaves something",
                    token.name
                )));
            }
            let pass = if token.normalized {
                &mut normalized
            } else {
                &mut raw
            };
            pass.push((name, token, is_skipped));
        }
        let (raw, normalized) = (Pass::new(raw)?, Pass::new(normalized)?);
        let is_empty = raw.is_none() && normalized.is_none();
        Ok((!is_empty).then_some(TokenFinder { raw, normalized }))
    }

    /// Whether no text that contains `data` has a token at the cut, or so near that the pattern would see
    /// another text there.
    pub(super) fn is_far_from(&self, data: &[u8], cut: usize) -> bool {
        let passes = [&self.raw, &self.normalized];
        passes
            .into_iter()
            .flatten()
            .all(|pass| pass.is_far_from(data, cut))
    }

    /// The number of bytes of the longest normalized name.
    pub(super) fn longest_normalized(&self) -> usize {
        self.normalized.as_ref().map_or(0, |pass| pass.longest)
    }
}

impl Pass {
    fn new(tokens: Vec<(String, &AddedToken, bool)>) -> Result<Option<Self>, Error> {
        // A skipped token matters only where it keeps one that isn't, or that matters, from being found.
        let (mut kept, mut left): (Vec<_>, Vec<_>) = tokens
            .into_iter()
            .partition(|&(_, _, is_skipped)| !is_skipped);
        if kept.is_empty() {
            return Ok(None);
        }
        let mut n_seen = 0;
        while n_seen < kept.len() {
            let name = kept[n_seen].0.clone();
            kept.extend(left.extract_if(.., |(other, _, _)| can_overlap(&name, other)));
            n_seen += 1;
        }
        let tokens = kept;
        let names = tokens.iter().map(|(name, _, _)| name);
        let mut sorted: Vec<_> = names.clone().collect();
        sorted.sort_unstable();
        if let Some(pair) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(Error::Vocabulary(format!(
                "two added tokens have the normalized name {:?}: expected different names",
                pair[0]
            )));
        }
        let too_many = |error| Error::Vocabulary(format!("too many added tokens: {error}"));
        let automaton = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .build(names.clone())
            .map_err(too_many)?;
        let rules = tokens.iter().map(|&(_, token, is_skipped)| Rule {
            id: token.id,
            is_skipped,
            lstrip: token.lstrip,
            rstrip: token.rstrip,
            single_word: token.single_word,
        });
        Ok(Some(Pass {
            automaton,
            tokens: rules.collect(),
            longest: names.clone().map(String::len).max().unwrap_or(0),
            overlapping: AhoCorasick::new(names).map_err(too_many)?,
        }))
    }

    /// The places of the tokens in `text` and their ids, from left to right. White space between two tokens
    /// may belong to both, so the second may begin before the first one ends.
    fn find(&self, text: &str) -> impl Iterator<Item = (Range<usize>, u32)> {
        let mut done = 0;
        self.automaton.find_iter(text).filter_map(move |found| {
            let rule = &self.tokens[found.pattern().as_usize()];
            let Range { mut start, mut end } = found.range();
            if rule.is_skipped {
                return None;
            }
            if rule.single_word {
                let before = text[..start].chars().next_back();
                let after = text[end..].chars().next();
                if before.is_some_and(is_word) || after.is_some_and(is_word) {
                    return None;
                }
            }
            if rule.lstrip {
                start = text[..start].trim_end().len().max(done);
            }
            if rule.rstrip {
                end = text.len() - text[end..].trim_start().len();
            }
            // White space that the one before has taken leaves nothing of a token that is white space.
            let is_left = start < end;
            done = done.max(end);
            is_left.then_some((start..end, rule.id))
        })
    }

    fn is_far_from(&self, data: &[u8], cut: usize) -> bool {
        let reach = LOOKED_AT + self.longest;
        if cut < reach || cut + reach > data.len() {
            return false;
        }
        let around = &data[cut - reach..cut + reach];
        let mut found = self.overlapping.find_overlapping_iter(around);
        found.all(|token| token.end() + LOOKED_AT <= reach || token.start() >= reach + LOOKED_AT)
    }
}

/// Whether one name may begin in text before another that has begun there ends.
fn can_overlap(a: &str, b: &str) -> bool {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    let joins = |a: &[u8], b: &[u8]| (1..a.len().min(b.len())).any(|n| a.ends_with(&b[..n]));
    let has = |a: &[u8], b: &[u8]| a.windows(b.len()).any(|part| part == b);
    has(a, b) || has(b, a) || joins(a, b) || joins(b, a)
}

/// Pass the stretches of `text` to `visit`, in order, each with the id of the token that it is, if any.
pub(super) fn each_stretch<'t>(
    pass: Option<&Pass>,
    text: &'t str,
    mut visit: impl FnMut(Range<usize>, &'t str, Option<u32>) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut start = 0;
    for (found, id) in pass.into_iter().flat_map(|pass| pass.find(text)) {
        if start < found.start {
            visit(start..found.start, &text[start..found.start], None)?;
        }
        visit(found.clone(), &text[found.clone()], Some(id))?;
        start = found.end;
    }
    if start < text.len() {
        visit(start..text.len(), &text[start..], None)?;
    }
    Ok(())
}
