//! Vocabularies: tokens, their ids, and the merges that the ids imply.

pub(crate) mod borders;
pub(crate) mod first_symbols;
mod merges;
mod model;
pub(crate) mod tokens;
pub(crate) mod wide_borders;

use std::borrow::Cow;
use std::collections::HashSet;

use self::borders::Borders;
use self::first_symbols::{FirstSymbols, byte_token};
use self::merges::Merges;
pub use self::model::{Merge, Model};
use self::tokens::{TokenIds, Tokens, bytes_of_name, describe};
use self::wide_borders::WideBorders;
use crate::encode::merge_table::ID_BITS;
use crate::encode::merger::Rules;
use crate::error::Error;
use crate::util::context::Context;
use crate::util::memory::try_reserve;
use crate::util::piece_key::Key;

/// Two adjacent tokens, by id.
pub type Pair = (u32, u32);

/// A BPE vocabulary: single bytes or characters, merged tokens, special tokens.
#[derive(Debug, Clone)]
pub struct Vocab {
    ids: TokenIds,
    tokens: Tokens,
    merges: Merges,
    /// Whether a whole pre-token has to be looked up before it is merged.
    looks_up_whole: bool,
    /// Where pre-tokens can be cut further; None if that is not known.
    borders: Option<Borders>,
    /// Where long pre-tokens can be cut further, if merging begins with bytes.
    wide_borders: Option<WideBorders>,
    /// The ids of the tokens `<0x00>` to `<0xFF>` that stand for bytes.
    byte_tokens: Vec<(u32, u8)>,
    special_tokens: Vec<(String, u32)>,
    added_tokens: Vec<(String, u32)>,
}

/// The largest id allowed. Three ids of this size fit into 64 bits (see `MergeTable`), and since ids
/// are indices, a stray huge one would allocate gigabytes.
pub const MAX_ID: u32 = (1 << ID_BITS) - 2;

impl Vocab {
    /// Create a vocabulary from tokens and their ids, in any order, which are tiktoken's ranks: of all
    /// adjacent tokens whose concatenated bytes are a token, those that make the smallest id are merged
    /// first. A whole pre-token that is a token is not merged.
    ///
    /// # Errors
    /// Fails if a byte has no id, a token is empty, a token or an id is given twice, an id is above
    /// [`MAX_ID`], or if `context` is stopped.
    pub fn new(
        context: &Context,
        ranks: impl IntoIterator<Item = (Box<[u8]>, u32)>,
        special_tokens: &[(String, u32)],
    ) -> Result<Self, Error> {
        Vocab::with_model(context, ranks, special_tokens, &Model::default())
    }

    /// Create a vocabulary from tokens and their ids, in any order, and the rest of a model.
    ///
    /// # Errors
    /// As [`Vocab::new`]. But with listed merges, a byte may have no id. Then fails if one of them is of
    /// tokens without an id, makes a token without an id, or has a token that stands for unknown text.
    pub fn with_model(
        context: &Context,
        ranks: impl IntoIterator<Item = (Box<[u8]>, u32)>,
        special_tokens: &[(String, u32)],
        model: &Model,
    ) -> Result<Self, Error> {
        let mut ids = TokenIds::default();
        let mut tokens = Tokens::default();
        for (step, (token, id)) in (0..).zip(ranks) {
            context.check_at(step)?;
            if token.is_empty() {
                return Err(Error::Vocabulary(format!(
                    "the id {id} has an empty token: expected at least one byte"
                )));
            }
            tokens.insert(&token, id)?;
            if !ids.insert(&token, id) {
                return Err(Error::Vocabulary(format!(
                    "{} has two ids",
                    describe(&token)
                )));
            }
        }
        let merges = match &model.merges {
            Some(listed) => Merges::listed(context, &tokens, &ids, listed, model)?,
            None => Merges::by_rank(context, &tokens, byte_ids(&ids)?)?,
        };
        let mut byte_tokens = Vec::new();
        if model.byte_fallback {
            for byte in 0..=255 {
                if let Some(id) = ids.get(&byte_token(byte)) {
                    byte_tokens.push((id, byte));
                    tokens.replace(id, byte);
                }
            }
        }
        byte_tokens.sort_unstable();
        let mut names = HashSet::new();
        for (step, (name, id)) in (0..).zip(special_tokens) {
            context.check_at(step)?;
            if !names.insert(name) {
                return Err(Error::Vocabulary(format!(
                    "the special token {name:?} is given twice"
                )));
            }
            if name.is_empty() || ids.get(name.as_bytes()).is_some() {
                return Err(Error::Vocabulary(format!(
                    "{name:?} can't be a special token: it is empty or an ordinary token already"
                )));
            }
            tokens.insert(&bytes_of_name(name, &merges.first), *id)?;
        }
        let asks_for_whole = model.merges.is_none() || model.ignore_merges;
        let looks_up_whole = asks_for_whole && merges.whole_differs;
        let can_be_cut = merges.first.are_characters_and_bytes() && !looks_up_whole;
        Ok(Vocab {
            borders: can_be_cut.then(|| {
                let made = merges.made(&tokens);
                Borders::new(made.filter_map(|token| std::str::from_utf8(token).ok()))
            }),
            wide_borders: matches!(merges.first, FirstSymbols::Bytes(_)).then(|| {
                WideBorders::new(
                    merges.made(&tokens),
                    merges.only_whole(&tokens, looks_up_whole),
                )
            }),
            ids,
            tokens,
            looks_up_whole,
            merges,
            byte_tokens,
            special_tokens: special_tokens.to_vec(),
            added_tokens: Vec::new(),
        })
    }

    /// Add tokens that are found in any text. Unlike a special token, such a token may have the bytes of an
    /// ordinary one, with the same id or another.
    ///
    /// # Errors
    /// Fails if a name is empty or given twice, or an id is given twice or above [`MAX_ID`].
    pub fn add_tokens(&mut self, tokens: &[(String, u32)]) -> Result<(), Error> {
        let special = self.special_tokens.iter();
        let mut names: HashSet<&str> = special.map(|(name, _)| name.as_str()).collect();
        for (name, id) in tokens {
            if name.is_empty() || !names.insert(name) {
                return Err(Error::Vocabulary(format!(
                    "the added token {name:?} is empty or given twice"
                )));
            }
            if self.ids.get(name.as_bytes()) != Some(*id) {
                let bytes = bytes_of_name(name, &self.merges.first);
                self.tokens.insert(&bytes, *id)?;
            }
            self.added_tokens.push((name.clone(), *id));
        }
        Ok(())
    }

    /// Create the vocabulary of a trainer's merges: id i below 256 is the byte `alphabet[i]`, id
    /// 256 + i is the token that merge i makes, and the special tokens follow in the order given.
    ///
    /// # Errors
    /// As [`Vocab::new`].
    pub fn from_merges(
        context: &Context,
        alphabet: &[u8; 256],
        merges: &[Pair],
        special_tokens: &[String],
    ) -> Result<Self, Error> {
        let mut tokens: Vec<Vec<u8>> = alphabet.iter().map(|&byte| vec![byte]).collect();
        for &(left, right) in merges {
            tokens.push([&tokens[left as usize][..], &tokens[right as usize]].concat());
        }
        let special_tokens: Vec<_> = special_tokens
            .iter()
            .cloned()
            .zip(tokens.len() as u32..)
            .collect();
        let ranks = tokens.into_iter().map(Vec::into_boxed_slice).zip(0..);
        Vocab::new(context, ranks, &special_tokens)
    }

    /// One more than the largest id.
    pub fn n_vocab(&self) -> usize {
        self.tokens.n_vocab()
    }

    /// Whether every id fits into 16 bits.
    pub fn fits_16_bits(&self) -> bool {
        self.n_vocab() <= 1 << 16
    }

    /// The id of an ordinary token, if there is such a token.
    #[inline]
    pub fn id_of(&self, token: &[u8]) -> Option<u32> {
        self.ids.get(token)
    }

    /// The id of a short pre-token, given by its key, that is surely encoded as a single token.
    #[inline]
    pub(crate) fn whole(&self, key: Key) -> Option<u32> {
        let is_sure = self.looks_up_whole || !self.merges.whole_differs;
        self.ids.get_short(key).filter(|_| is_sure)
    }

    /// Prefetch what [`Vocab::whole`] reads.
    #[inline]
    pub(crate) fn prefetch_whole(&self, key: Key) {
        self.ids.prefetch_short(key);
    }

    /// The rules by which `Merger::encode` encodes a pre-token.
    pub(crate) fn rules<'a>(&'a self, context: &'a Context) -> Rules<'a> {
        Rules {
            merges: &self.merges.table,
            ascending: self.merges.ascending,
            first: &self.merges.first,
            ids: self.merges.ids.as_deref(),
            whole: self.looks_up_whole.then_some(&self.ids),
            context,
        }
    }

    /// Where pre-tokens can be cut further without changing their ids; None if that is not known.
    pub(crate) fn borders(&self) -> Option<&Borders> {
        self.borders.as_ref()
    }

    /// Where long pre-tokens can be cut further without changing their ids, unless they are a token as a
    /// whole; None if that is not known.
    pub(crate) fn wide_borders(&self) -> Option<&WideBorders> {
        self.wide_borders.as_ref()
    }

    /// Whether some tokens are made only of whole pre-tokens: no merges make them.
    pub fn looks_up_whole(&self) -> bool {
        self.looks_up_whole
    }

    /// Whether tiktoken encodes any text alike, with the ids of the ordinary tokens as ranks.
    pub fn follows_ids(&self) -> bool {
        self.merges.follow_ids
    }

    /// Whether a merge makes only merges of higher rank possible.
    pub fn merges_ascend(&self) -> bool {
        self.merges.ascending
    }

    /// The merges that can be applied, as pairs of tokens in the order of their ranks: for each token, at
    /// most one.
    pub fn merged_pairs(&self) -> Vec<(&[u8], &[u8])> {
        let mut by_rank: Vec<_> = self.merges.table.iter().collect();
        by_rank.sort_unstable_by_key(|&(_, rank)| rank);
        // A token that stands for a byte is in no merge.
        let bytes = |symbol| {
            let id = self.merges.id(symbol) as usize;
            self.tokens.get(id).unwrap_or_default()
        };
        by_rank
            .into_iter()
            .map(|((left, right), _)| (bytes(left), bytes(right)))
            .collect()
    }

    /// The ordinary tokens and their ids, sorted by id. With byte_fallback, the token of a byte is spelled
    /// `<0x0A>`.
    pub fn ranks(&self) -> Vec<(Cow<'_, [u8]>, u32)> {
        let all = (0..).zip(0..self.n_vocab());
        all.filter_map(|(id, index)| {
            let token = match self.byte_of(id) {
                Some(byte) => Cow::Owned(byte_token(byte)),
                None => Cow::Borrowed(self.tokens.get(index)?),
            };
            (self.ids.get(&token) == Some(id)).then_some((token, id))
        })
        .collect()
    }

    /// The byte that a token such as `<0x0A>` stands for.
    fn byte_of(&self, id: u32) -> Option<u8> {
        let found = self.byte_tokens.binary_search_by_key(&id, |&(id, _)| id);
        found.ok().map(|i| self.byte_tokens[i].1)
    }

    /// The special tokens and their ids, in the order given.
    pub fn special_tokens(&self) -> &[(String, u32)] {
        &self.special_tokens
    }

    /// The tokens that are found in any text, and their ids, in the order given.
    pub fn added_tokens(&self) -> &[(String, u32)] {
        &self.added_tokens
    }

    /// The bytes of a token. Those of a special or added token are its name in UTF-8; but in a byte-level
    /// vocabulary, a name of which each character stands for a byte has these bytes, as in `tokenizers`.
    #[inline]
    pub fn token_bytes(&self, id: usize) -> Option<&[u8]> {
        self.tokens.get(id)
    }

    /// Return the concatenated bytes of `ids`.
    ///
    /// # Errors
    /// Fails if an id has no token, if there is not enough memory (one id may have millions of bytes),
    /// or if `context` is stopped.
    pub fn decode_bytes(
        &self,
        context: &Context,
        ids: impl ExactSizeIterator<Item = i64>,
    ) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        try_reserve(&mut bytes, 4 * ids.len())?;
        // Collect tokens in a buffer first. Most are short, and copying a fixed 16 bytes is faster than
        // copying a variable number.
        let mut buffer = [0; 512];
        let mut n = 0;
        for (position, id) in ids.enumerate() {
            context.check_at(position as u32)?;
            let index = usize::try_from(id).unwrap_or(usize::MAX);
            let Some((token, sixteen)) = self.tokens.get_padded(index) else {
                return Err(Error::UnknownId {
                    id: id.to_string(),
                    position,
                    n_vocab: self.n_vocab(),
                });
            };
            if n + 16 > buffer.len() || token.len() > 16 {
                try_reserve(&mut bytes, n + token.len())?;
                bytes.extend_from_slice(&buffer[..n]);
                n = 0;
            }
            if token.len() > 16 {
                bytes.extend_from_slice(token);
            } else if let Some(places) = buffer[n..].first_chunk_mut() {
                *places = *sixteen;
                n += token.len();
            }
        }
        try_reserve(&mut bytes, n)?;
        bytes.extend_from_slice(&buffer[..n]);
        Ok(bytes)
    }
}

/// The id of each single byte.
fn byte_ids(ids: &TokenIds) -> Result<Box<[u32; 256]>, Error> {
    let mut of_byte = Box::new([0; 256]);
    for byte in 0..=255u8 {
        of_byte[usize::from(byte)] = ids.get(&[byte]).ok_or_else(|| {
            Error::Vocabulary(format!(
                "the byte 0x{byte:02x} has no id: without listed merges, a vocabulary needs all 256 \
                 bytes"
            ))
        })?;
    }
    Ok(of_byte)
}
