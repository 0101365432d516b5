//! Tokens that no merge may make, such as those that are spelled like a special token.

use std::collections::HashSet;

use crate::vocab::Pair;

/// Forbidden tokens, the length of each token so far, and the bytes of those that are short enough to be
/// part of a forbidden one.
pub(super) struct Forbidden<'a> {
    names: HashSet<&'a [u8]>,
    longest: usize,
    max_length: usize,
    /// By id.
    lengths: Vec<usize>,
    /// By id; None for a token that is too long.
    tokens: Vec<Option<Box<[u8]>>>,
}

impl<'a> Forbidden<'a> {
    /// Begin with the bytes of the tokens that there are, by id. No merge may make a longer token than
    /// `max_length` bytes.
    pub(super) fn new<T: AsRef<[u8]>>(
        names: &'a [Vec<u8>],
        max_length: Option<usize>,
        tokens: impl Iterator<Item = T>,
    ) -> Self {
        let mut forbidden = Forbidden {
            names: names.iter().map(Vec::as_slice).collect(),
            longest: names.iter().map(Vec::len).max().unwrap_or(0),
            max_length: max_length.unwrap_or(usize::MAX),
            lengths: Vec::new(),
            tokens: Vec::new(),
        };
        for token in tokens {
            let token = token.as_ref();
            forbidden.lengths.push(token.len());
            let is_short = token.len() < forbidden.longest;
            forbidden.tokens.push(is_short.then(|| token.into()));
        }
        forbidden
    }

    /// Whether `pair` may be merged. If so, the next id is that of its token.
    pub(super) fn allows(&mut self, pair: Pair) -> bool {
        let ids = [pair.0, pair.1].map(|id| id as usize);
        let length = self.lengths[ids[0]] + self.lengths[ids[1]];
        if length > self.max_length {
            return false;
        }
        let token = match ids.map(|id| self.tokens[id].as_deref()) {
            [Some(left), Some(right)] if length <= self.longest => {
                Some([left, right].concat().into_boxed_slice())
            }
            _ => None,
        };
        let allowed = !token
            .as_deref()
            .is_some_and(|token| self.names.contains(token));
        if allowed {
            self.lengths.push(length);
            self.tokens.push(token);
        }
        allowed
    }
}
