//! Tokens and their ids, in both directions.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::AtomicBool;

use crate::encode::merge_table::{ID_BITS, Merges};
use crate::encode::merger::Merger;
use crate::error::Error;
use crate::train::Pair;
use crate::util::interrupt::check_at;
use crate::util::key::key_of;
use crate::util::key_map::KeyMap;
use crate::util::memory::reserve;

/// A byte-level BPE vocabulary: 256 single bytes, merged tokens, special tokens.
#[derive(Debug, Clone)]
pub struct Vocab {
    ids: TokenIds,
    tokens: Tokens,
    byte_ids: [u32; 256],
    merges: Merges,
    special_tokens: Vec<(String, u32)>,
}

/// The largest id there may be: three of them fit 64 bits (see [`Merges`]). Ids are indices, so a stray
/// huge one would ask for gigabytes.
pub const MAX_ID: u32 = (1 << ID_BITS) - 2;

impl Vocab {
    /// Make a vocabulary of tokens and their ids, in any order.
    ///
    /// As in a tiktoken rank file the id of a merged token is also its rank: among the merges that
    /// are possible, the one that makes the smallest id goes first. The merges are not given but
    /// derived: BPE with the smaller ids alone must cut a token's bytes into exactly two tokens,
    /// and that pair is its merge. From this follows, by induction over ids, that any two adjacent
    /// tokens whose bytes together are a token *are* that token's pair. So three definitions of the
    /// encoding are one: merging by listed pairs (Hugging Face), merging whatever makes a known
    /// byte string (tiktoken), and looking the whole pre-token up first.
    ///
    /// Fails if a byte or an id is missing or given twice, or a token can't be derived; or soon after
    /// `stop` has become true.
    pub fn new(
        ranks: impl IntoIterator<Item = (Box<[u8]>, u32)>,
        special_tokens: &[(String, u32)],
        stop: &AtomicBool,
    ) -> Result<Self, Error> {
        let mut ids = TokenIds::default();
        let mut tokens = Tokens::default();
        for (step, (token, id)) in (0..).zip(ranks) {
            check_at(step, stop)?;
            if token.is_empty() {
                return Err(Error::Vocabulary(format!(
                    "the id {id} has an empty token: expected at least one byte"
                )));
            }
            tokens.place(&token, id)?;
            if !ids.insert(&token, id) {
                return Err(Error::Vocabulary(format!("{} has two ids", show(&token))));
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
        let merges = derive_merges(&tokens, &byte_ids, stop)?;
        let mut names = HashSet::new();
        for (step, (name, id)) in (0..).zip(special_tokens) {
            check_at(step, stop)?;
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
            tokens.place(name.as_bytes(), *id)?;
        }
        Ok(Vocab {
            ids,
            tokens,
            byte_ids,
            merges,
            special_tokens: special_tokens.to_vec(),
        })
    }

    /// The vocabulary of a trainer's merges: id i below 256 is the byte `alphabet[i]`, 256 + i is what
    /// merge i makes, and the special tokens follow in the order given.
    pub fn from_merges(
        alphabet: &[u8; 256],
        merges: &[Pair],
        special_tokens: &[String],
        stop: &AtomicBool,
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
        Vocab::new(ranks, &special_tokens, stop)
    }

    /// One more than the largest id.
    pub fn n_vocab(&self) -> usize {
        self.tokens.spans.len()
    }

    /// Whether 16 bits hold every id.
    pub fn fits_16_bits(&self) -> bool {
        self.n_vocab() <= 1 << 16
    }

    /// The id of an ordinary token.
    #[inline]
    pub fn id_of(&self, token: &[u8]) -> Option<u32> {
        self.ids.get(token)
    }

    /// The id of each single byte.
    pub fn byte_ids(&self) -> &[u32; 256] {
        &self.byte_ids
    }

    /// The merges that the ids imply.
    pub fn merges(&self) -> &Merges {
        &self.merges
    }

    /// The merges as pairs of byte strings, first merge first.
    pub fn merged_pairs(&self) -> Vec<(&[u8], &[u8])> {
        let mut by_rank: Vec<_> = self.merges.iter().collect();
        by_rank.sort_unstable_by_key(|&(_, rank)| rank);
        let bytes = |id: u32| self.tokens.get(id as usize).unwrap_or_default();
        by_rank
            .into_iter()
            .map(|((left, right), _)| (bytes(left), bytes(right)))
            .collect()
    }

    /// The ordinary tokens and their ids, by id.
    pub fn ranks(&self) -> Vec<(&[u8], u32)> {
        let special: HashSet<u32> = self.special_tokens.iter().map(|&(_, id)| id).collect();
        let all = (0..).zip(0..self.n_vocab());
        all.filter_map(|(id, index)| Some((self.tokens.get(index)?, id)))
            .filter(|(_, id)| !special.contains(id))
            .collect()
    }

    /// The special tokens and their ids, in the order given.
    pub fn special_tokens(&self) -> &[(String, u32)] {
        &self.special_tokens
    }

    /// The bytes of a token; a special token's are its name in UTF-8.
    #[inline]
    pub fn token_bytes(&self, id: usize) -> Option<&[u8]> {
        self.tokens.get(id)
    }

    /// The bytes of each id, end to end. Fails for an id that stands for no token, if there is no memory
    /// for the bytes, of which an id may have millions, or soon after `stop` has become true.
    pub fn decode_bytes(
        &self,
        ids: impl ExactSizeIterator<Item = i64>,
        stop: &AtomicBool,
    ) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        reserve(&mut bytes, 4 * ids.len())?;
        // Tokens are gathered here first. Most are short, and copying 16 bytes takes less time than
        // copying as many as there are.
        let mut gathered = [0; 512];
        let mut n = 0;
        for (position, id) in ids.enumerate() {
            check_at(position as u32, stop)?;
            let index = usize::try_from(id).unwrap_or(usize::MAX);
            let Some((token, sixteen)) = self.tokens.get_with_sixteen(index) else {
                return Err(Error::UnknownId {
                    id: id.to_string(),
                    position,
                    n_vocab: self.n_vocab(),
                });
            };
            if n + 16 > gathered.len() || token.len() > 16 {
                reserve(&mut bytes, n + token.len())?;
                bytes.extend_from_slice(&gathered[..n]);
                n = 0;
            }
            if token.len() > 16 {
                bytes.extend_from_slice(token);
            } else if let Some(places) = gathered[n..].first_chunk_mut() {
                *places = *sixteen;
                n += token.len();
            }
        }
        reserve(&mut bytes, n)?;
        bytes.extend_from_slice(&gathered[..n]);
        Ok(bytes)
    }
}

/// Ids by token.
#[derive(Debug, Clone, Default)]
struct TokenIds {
    /// Those of at most 15 bytes, which are nearly all.
    short: KeyMap<u32>,
    long: HashMap<Box<[u8]>, u32>,
}

impl TokenIds {
    #[inline]
    fn get(&self, token: &[u8]) -> Option<u32> {
        match key_of(token) {
            Some(key) => self.short.get(key),
            None => self.long.get(token).copied(),
        }
    }

    /// False if the token was there before.
    fn insert(&mut self, token: &[u8], id: u32) -> bool {
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

/// Tokens by id, end to end.
#[derive(Debug, Clone)]
struct Tokens {
    /// With [`PADDING`] after the last, so that 16 bytes follow the start of each.
    bytes: Vec<u8>,
    /// Where each begins and ends; empty where an id was left out between two tokens.
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
    #[inline]
    fn get(&self, id: usize) -> Option<&[u8]> {
        let &(start, end) = self.spans.get(id)?;
        (start < end).then(|| &self.bytes[start as usize..end as usize])
    }

    /// A token, and 16 bytes of which the first are the token's, if it has no more.
    #[inline]
    fn get_with_sixteen(&self, id: usize) -> Option<(&[u8], &[u8; 16])> {
        let token = self.get(id)?;
        let start = self.spans[id].0 as usize;
        Some((token, self.bytes[start..].first_chunk()?))
    }

    fn place(&mut self, token: &[u8], id: u32) -> Result<(), Error> {
        if id > MAX_ID {
            return Err(Error::Vocabulary(format!(
                "{} has the id {id}: expected at most {MAX_ID}",
                show(token)
            )));
        }
        let index = id as usize;
        if let Some(other) = self.get(index) {
            return Err(Error::Vocabulary(format!(
                "{} and {} have the same id {id}",
                show(other),
                show(token)
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

fn derive_merges(
    tokens: &Tokens,
    byte_ids: &[u32; 256],
    stop: &AtomicBool,
) -> Result<Merges, Error> {
    let mut merges = Merges::default();
    let mut merger = Merger::default();
    for id in 0..tokens.spans.len() as u32 {
        check_at(id, stop)?;
        let token = tokens.get(id as usize).unwrap_or_default();
        if token.len() < 2 {
            continue;
        }
        let parts = merger.merge(&merges, byte_ids, token, stop)?;
        let &[left, right] = parts else {
            return Err(Error::Vocabulary(format!(
                "{} (id {id}) is no merge: BPE with the smaller ids cuts it into {} tokens, \
                 expected 2",
                show(token),
                parts.len()
            )));
        };
        merges.insert((left, right), id);
    }
    Ok(merges)
}

/// A token as a reader of an error message wants to see it.
fn show(token: &[u8]) -> String {
    format!("the token {:?}", String::from_utf8_lossy(token))
}
