//! Vocabularies: tokens, their ids, and the merges that the ids imply.

mod tokens;

use std::collections::HashSet;

use self::tokens::{TokenIds, Tokens, describe};
use crate::encode::merge_table::{ID_BITS, MergeTable};
use crate::encode::merger::{Merger, Rules};
use crate::error::Error;
use crate::util::context::Context;
use crate::util::memory::try_reserve;

/// Two adjacent tokens, by id.
pub type Pair = (u32, u32);

/// A byte-level BPE vocabulary: 256 single bytes, merged tokens, special tokens.
#[derive(Debug, Clone)]
pub struct Vocab {
    ids: TokenIds,
    tokens: Tokens,
    byte_ids: [u32; 256],
    merges: MergeTable,
    special_tokens: Vec<(String, u32)>,
    added_tokens: Vec<(String, u32)>,
}

/// The largest id allowed. Three ids of this size fit into 64 bits (see `MergeTable`), and since ids
/// are indices, a stray huge one would allocate gigabytes.
pub const MAX_ID: u32 = (1 << ID_BITS) - 2;

impl Vocab {
    /// Create a vocabulary from tokens and their ids, in any order.
    ///
    /// As in a tiktoken rank file, the id of a merged token is also its rank: of all possible merges,
    /// the one that makes the smallest id is applied first. The merges are derived from the ids: BPE
    /// with the smaller ids alone must cut a token's bytes into exactly two tokens, and that pair is
    /// its merge. By induction over ids it follows that any two adjacent tokens whose concatenated
    /// bytes are a token *are* that token's pair. So three definitions of the encoding agree: merging
    /// the listed pairs (Hugging Face), merging whatever makes a known byte string (tiktoken), and
    /// looking up the whole pre-token first.
    ///
    /// # Errors
    /// Fails if a byte has no id, a token is empty, a token or an id is given twice, an id is above
    /// [`MAX_ID`], a token is not a merge of two others, or if `context` is stopped.
    pub fn new(
        context: &Context,
        ranks: impl IntoIterator<Item = (Box<[u8]>, u32)>,
        special_tokens: &[(String, u32)],
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
        let mut byte_ids = [0; 256];
        for byte in 0..=255u8 {
            byte_ids[usize::from(byte)] = ids.get(&[byte]).ok_or_else(|| {
                Error::Vocabulary(format!(
                    "the byte 0x{byte:02x} has no id: a byte-level vocabulary needs all 256 bytes"
                ))
            })?;
        }
        let merges = derive_merges(context, &tokens, &byte_ids)?;
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
            tokens.insert(name.as_bytes(), *id)?;
        }
        Ok(Vocab {
            ids,
            tokens,
            byte_ids,
            merges,
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
                self.tokens.insert(name.as_bytes(), *id)?;
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

    /// The rules by which [`Merger::merge`] encodes a pre-token.
    pub(crate) fn rules<'a>(&'a self, context: &'a Context) -> Rules<'a> {
        Rules {
            merges: &self.merges,
            byte_ids: &self.byte_ids,
            context,
        }
    }

    /// The merges as pairs of byte strings, in the order they are applied.
    pub fn merged_pairs(&self) -> Vec<(&[u8], &[u8])> {
        let mut by_rank: Vec<_> = self.merges.iter().collect();
        by_rank.sort_unstable_by_key(|&(_, rank)| rank);
        let bytes = |id: u32| self.tokens.get(id as usize).unwrap_or_default();
        by_rank
            .into_iter()
            .map(|((left, right), _)| (bytes(left), bytes(right)))
            .collect()
    }

    /// The ordinary tokens and their ids, sorted by id.
    pub fn ranks(&self) -> Vec<(&[u8], u32)> {
        let all = (0..).zip(0..self.n_vocab());
        all.filter_map(|(id, index)| Some((self.tokens.get(index)?, id)))
            .filter(|&(token, id)| self.ids.get(token) == Some(id))
            .collect()
    }

    /// The special tokens and their ids, in the order given.
    pub fn special_tokens(&self) -> &[(String, u32)] {
        &self.special_tokens
    }

    /// The tokens that are found in any text, and their ids, in the order given.
    pub fn added_tokens(&self) -> &[(String, u32)] {
        &self.added_tokens
    }

    /// The bytes of a token. Those of a special or added token are its name in UTF-8.
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

/// Find the pair that each token of two bytes or more is merged from.
fn derive_merges(
    context: &Context,
    tokens: &Tokens,
    byte_ids: &[u32; 256],
) -> Result<MergeTable, Error> {
    let mut merges = MergeTable::default();
    let mut merger = Merger::default();
    for id in 0..tokens.n_vocab() as u32 {
        context.check_at(id)?;
        let token = tokens.get(id as usize).unwrap_or_default();
        if token.len() < 2 {
            continue;
        }
        let rules = Rules {
            merges: &merges,
            byte_ids,
            context,
        };
        let parts = merger.merge(rules, token)?;
        let &[left, right] = parts else {
            return Err(Error::Vocabulary(format!(
                "{} (id {id}) is no merge: BPE with the smaller ids cuts it into {} tokens, \
                 expected 2",
                describe(token),
                parts.len()
            )));
        };
        merges.insert((left, right), id);
    }
    Ok(merges)
}
