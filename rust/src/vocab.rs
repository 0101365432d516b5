//! Tokens and their ids, in both directions.

use rustc_hash::FxHashMap;

use crate::encode::{Merger, Merges};
use crate::error::Error;
use crate::train::Pair;

/// A byte-level BPE vocabulary: 256 single bytes, merged tokens, special tokens.
#[derive(Debug, Clone)]
pub struct Vocab {
    ids: FxHashMap<Box<[u8]>, u32>,
    /// By id; `None` where an id was left out between two tokens. Includes the special tokens.
    tokens: Vec<Option<Box<[u8]>>>,
    byte_ids: [u32; 256],
    merges: Merges,
    special_tokens: Vec<(String, u32)>,
}

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
    /// Fails if a byte or an id is missing or given twice, or a token can't be derived.
    pub fn new(
        ranks: impl IntoIterator<Item = (Box<[u8]>, u32)>,
        special_tokens: &[(String, u32)],
    ) -> Result<Self, Error> {
        let mut ids = FxHashMap::default();
        let mut tokens = Vec::new();
        for (token, id) in ranks {
            if token.is_empty() {
                return Err(Error::Vocabulary(format!(
                    "the id {id} has an empty token: expected at least one byte"
                )));
            }
            place(&mut tokens, &token, id)?;
            if ids.insert(token.clone(), id).is_some() {
                return Err(Error::Vocabulary(format!("{} has two ids", show(&token))));
            }
        }
        let mut byte_ids = [0; 256];
        for byte in 0..=255u8 {
            byte_ids[usize::from(byte)] = *ids.get([byte].as_slice()).ok_or_else(|| {
                Error::Vocabulary(format!(
                    "the byte 0x{byte:02x} has no id: a byte-level vocabulary needs all 256 bytes"
                ))
            })?;
        }
        let merges = derive_merges(&tokens, &byte_ids)?;
        for (i, (name, id)) in special_tokens.iter().enumerate() {
            if special_tokens[..i].iter().any(|(other, _)| other == name) {
                return Err(Error::Vocabulary(format!(
                    "the special token {name:?} is given twice"
                )));
            }
            if name.is_empty() || ids.contains_key(name.as_bytes()) {
                return Err(Error::Vocabulary(format!(
                    "{name:?} can't be a special token: it is empty or an ordinary token already"
                )));
            }
            place(&mut tokens, name.as_bytes(), *id)?;
        }
        Ok(Vocab {
            ids,
            tokens,
            byte_ids,
            merges,
            special_tokens: special_tokens.to_vec(),
        })
    }

    /// The vocabulary of a trainer's merges: ids 0 to 255 are the bytes of that value, 256 + i is
    /// what merge i makes, and the special tokens follow in the order given.
    pub fn from_merges(merges: &[Pair], special_tokens: &[String]) -> Result<Self, Error> {
        let mut tokens: Vec<Vec<u8>> = (0..=255).map(|byte| vec![byte]).collect();
        for &(left, right) in merges {
            tokens.push([&tokens[left as usize][..], &tokens[right as usize]].concat());
        }
        let special_tokens: Vec<_> = special_tokens
            .iter()
            .cloned()
            .zip(tokens.len() as u32..)
            .collect();
        let ranks = tokens.into_iter().map(Vec::into_boxed_slice).zip(0..);
        Vocab::new(ranks, &special_tokens)
    }

    /// One more than the largest id.
    pub fn n_vocab(&self) -> usize {
        self.tokens.len()
    }

    /// The id of an ordinary token.
    pub fn id_of(&self, token: &[u8]) -> Option<u32> {
        self.ids.get(token).copied()
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
        let bytes = |id: u32| self.tokens[id as usize].as_deref().unwrap_or_default();
        by_rank
            .into_iter()
            .map(|(&(left, right), _)| (bytes(left), bytes(right)))
            .collect()
    }

    /// The ordinary tokens and their ids, by id.
    pub fn ranks(&self) -> Vec<(&[u8], u32)> {
        let mut by_id: Vec<_> = self.ids.iter().map(|(token, &id)| (&**token, id)).collect();
        by_id.sort_unstable_by_key(|&(_, id)| id);
        by_id
    }

    /// The special tokens and their ids, in the order given.
    pub fn special_tokens(&self) -> &[(String, u32)] {
        &self.special_tokens
    }

    /// The bytes of each id, end to end. A special token's bytes are its name in UTF-8.
    pub fn decode_bytes(&self, ids: &[i64]) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        for (position, &id) in ids.iter().enumerate() {
            let token = usize::try_from(id)
                .ok()
                .and_then(|index| self.tokens.get(index)?.as_deref())
                .ok_or_else(|| Error::UnknownId {
                    id: id.to_string(),
                    position,
                    n_vocab: self.n_vocab(),
                })?;
            bytes.extend_from_slice(token);
        }
        Ok(bytes)
    }
}

/// The largest id there may be. Ids are indices, so a stray huge one would ask for gigabytes.
pub const MAX_ID: u32 = 1 << 24;

fn place(tokens: &mut Vec<Option<Box<[u8]>>>, token: &[u8], id: u32) -> Result<(), Error> {
    if id > MAX_ID {
        return Err(Error::Vocabulary(format!(
            "{} has the id {id}: expected at most {MAX_ID}",
            show(token)
        )));
    }
    let index = id as usize;
    if index >= tokens.len() {
        tokens.resize(index + 1, None);
    }
    match tokens[index].replace(token.into()) {
        None => Ok(()),
        Some(other) => Err(Error::Vocabulary(format!(
            "{} and {} have the same id {id}",
            show(&other),
            show(token)
        ))),
    }
}

fn derive_merges(tokens: &[Option<Box<[u8]>>], byte_ids: &[u32; 256]) -> Result<Merges, Error> {
    let mut merges = Merges::default();
    let mut merger = Merger::default();
    let mut parts = Vec::new();
    for (id, token) in (0..).zip(tokens) {
        let token = token.as_deref().unwrap_or_default();
        if token.len() < 2 {
            continue;
        }
        parts.clear();
        let byte_tokens = token.iter().map(|&byte| byte_ids[usize::from(byte)]);
        merger.merge(&merges, byte_tokens, &mut parts)?;
        let &[left, right] = parts.as_slice() else {
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
