//! The two directions of a vocabulary: ids by token, and tokens by id.

use std::borrow::Cow;
use std::collections::HashMap;

use super::MAX_ID;
use super::first_symbols::FirstSymbols;
use crate::error::Error;
use crate::util::hash_map::KeyMap;
use crate::util::piece_key::{Key, key_of};

/// Ids by token.
#[derive(Debug, Clone, Default)]
pub(crate) struct TokenIds {
    /// Tokens of at most 15 bytes, which nearly all are.
    short: KeyMap<u32>,
    long: HashMap<Box<[u8]>, u32>,
}

impl TokenIds {
    #[inline]
    pub(crate) fn get(&self, token: &[u8]) -> Option<u32> {
        match key_of(token) {
            Some(key) => self.short.get(key),
            None => self.long.get(token).copied(),
        }
    }

    /// The id of the short token that has this key.
    #[inline]
    pub(super) fn get_short(&self, key: Key) -> Option<u32> {
        self.short.get(key)
    }

    /// Prefetch what [`TokenIds::get_short`] reads.
    #[inline]
    pub(super) fn prefetch_short(&self, key: Key) {
        self.short.prefetch(key);
    }

    /// Set the id of `token`. Return false if it had one before.
    pub(super) fn insert(&mut self, token: &[u8], id: u32) -> bool {
        let is_new = self.get(token).is_none();
        match key_of(token) {
            Some(key) => *self.short.entry(key) = id,
            None => {
                self.long.insert(token.into(), id);
            }
        }
        is_new
    }
}

/// Tokens by id.
#[derive(Debug, Clone)]
pub(super) struct Tokens {
    /// All tokens, concatenated. [`PADDING`] bytes follow the last one, so that 16 bytes can be read
    /// from the start of each token.
    bytes: Vec<u8>,
    /// The start and end of each token in `bytes`; an empty range for an id without a token.
    spans: Vec<(u32, u32)>,
}

const PADDING: usize = 16;

impl Default for Tokens {
    fn default() -> Self {
        Tokens {
            bytes: vec![0; PADDING],
            spans: Vec::new(),
        }
    }
}

impl Tokens {
    /// One more than the largest id.
    pub(super) fn n_vocab(&self) -> usize {
        self.spans.len()
    }

    #[inline]
    pub(super) fn get(&self, id: usize) -> Option<&[u8]> {
        let &(start, end) = self.spans.get(id)?;
        (start < end).then(|| &self.bytes[start as usize..end as usize])
    }

    /// A token, and the 16 bytes from its start on: the whole token if it has no more than 16.
    #[inline]
    pub(super) fn get_padded(&self, id: usize) -> Option<(&[u8], &[u8; 16])> {
        let token = self.get(id)?;
        let start = self.spans[id].0 as usize;
        Some((token, self.bytes[start..].first_chunk()?))
    }

    /// Let a token stand for a single byte.
    pub(super) fn replace(&mut self, id: u32, byte: u8) {
        if let Some((start, end)) = self.spans.get_mut(id as usize) {
            self.bytes[*start as usize] = byte;
            *end = *start + 1;
        }
    }

    /// Add a token. Fails if its id is too large or already has a token.
    pub(super) fn insert(&mut self, token: &[u8], id: u32) -> Result<(), Error> {
        if id > MAX_ID {
            return Err(Error::Vocabulary(format!(
                "{} has the id {id}: expected at most {MAX_ID}",
                describe(token)
            )));
        }
        let index = id as usize;
        if let Some(other) = self.get(index) {
            return Err(Error::Vocabulary(format!(
                "{} and {} have the same id {id}",
                describe(other),
                describe(token)
            )));
        }
        if index >= self.spans.len() {
            self.spans.resize(index + 1, (0, 0));
        }
        let start = self.bytes.len() - PADDING;
        self.bytes.truncate(start);
        self.bytes.extend_from_slice(token);
        let end = u32::try_from(self.bytes.len())
            .map_err(|_| Error::Vocabulary("the tokens have more than 4 GiB together".into()))?;
        self.bytes.extend_from_slice(&[0; PADDING]);
        self.spans[index] = (start as u32, end);
        Ok(())
    }
}

/// The bytes that the name of an added token is decoded to.
pub(super) fn bytes_of_name<'n>(name: &'n str, first: &FirstSymbols) -> Cow<'n, [u8]> {
    let bytes = match first {
        FirstSymbols::Characters { .. } => None,
        _ => name.chars().map(byte_of_char).collect::<Option<Vec<u8>>>(),
    };
    bytes.map_or(Cow::Borrowed(name.as_bytes()), Cow::Owned)
}

/// The byte that a character of GPT-2's byte-level alphabet stands for: a visible Latin-1 character for
/// itself, and the characters from U+0100 on, in order, for the other bytes.
fn byte_of_char(c: char) -> Option<u8> {
    let byte = match u32::from(c) {
        code @ (0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff) => code,
        code @ 0x100..=0x120 => code - 0x100,
        code @ 0x121..=0x142 => code - 0x121 + 0x7f,
        0x143 => 0xad,
        _ => return None,
    };
    u8::try_from(byte).ok()
}

/// A token as error messages show it.
pub(super) fn describe(token: &[u8]) -> String {
    format!("the token {:?}", String::from_utf8_lossy(token))
}
