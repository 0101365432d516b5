//! Tokens that no merge may make, such as those that are spelled like a special token.

use std::collections::HashSet;

use crate::vocab::Pair;

/// Forbidden tokens, and the bytes of the tokens so far that are short enough to be part of one.
pub(super) struct Forbidden<'a> {
    names: HashSet<&'a [u8]>,
    longest: usize,
    /// By id; None for a token that is too long.
    tokens: Vec<Option<Box<[u8]>>>,
}

impl<'a> Forbidden<'a> {
    /// Begin with the single bytes, whose ids are their places in `alphabet`.
    pub(super) fn new(names: &'a [Vec<u8>], alphabet: &[u8; 256]) -> Self {
        Forbidden {
            names: names.iter().map(Vec::as_slice).collect(),
            longest: names.iter().map(Vec::len).max().unwrap_or(0),
            tokens: alphabet.iter().map(|&byte| Some([byte].into())).collect(),
        }
    }

    /// Whether `pair` may be merged. If so, the next id is that of its token.
    pub(super) fn allows(&mut self, pair: Pair) -> bool {
        let token = match [pair.0, pair.1].map(|id| self.tokens[id as usize].as_deref()) {
            [Some(left), Some(right)] if left.len() + right.len() <= self.longest => {
                Some([left, right].concat().into_boxed_slice())
            }
            _ => None,
        };
        let allowed = !token
            .as_deref()
            .is_some_and(|token| self.names.contains(token));
        if allowed {
            self.tokens.push(token);
        }
        allowed
    }
}
