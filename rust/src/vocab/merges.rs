//! The merges of a vocabulary that can ever be applied: at most one for each token.
//!
//! Two tokens l and r can be neighbours in some text only if BPE turns the symbols of l + r into these
//! two, by themselves (see `Merger::join`). What BPE does with the symbols of a token t is one sequence
//! of steps, and of the pairs that make t, at most one is ever reached: the two tokens that are left of
//! t when all merges that make shorter tokens are applied. So tokens are visited from the shortest to the
//! longest, and the merge of each is derived with those of the shorter ones.

use rustc_hash::{FxHashMap, FxHashSet};

use super::Pair;
use super::first_symbols::{FirstSymbols, Unknown, byte_token, only_char};
use super::model::{Merge, Model};
use super::tokens::{TokenIds, Tokens, describe};
use crate::encode::merge_table::{ID_BITS, MergeTable, NONE};
use crate::encode::merger::{Merger, Rules};
use crate::error::Error;
use crate::util::context::Context;

/// How a vocabulary merges.
#[derive(Debug, Clone)]
pub(super) struct Merges {
    pub(super) table: MergeTable,
    pub(super) first: FirstSymbols,
    /// The id of each symbol; None if the symbols are ids.
    pub(super) ids: Option<Box<[u32]>>,
    /// Whether a merge makes only merges of higher rank possible.
    pub(super) ascending: bool,
    /// Whether a pre-token that is a token may be merged into several.
    pub(super) whole_differs: bool,
    /// Whether the ids as tiktoken's ranks give the same merges.
    pub(super) follow_ids: bool,
}

/// Merges while they are derived.
struct Derivation<'a> {
    context: &'a Context,
    tokens: &'a Tokens,
    first: FirstSymbols,
    table: MergeTable,
    merger: Merger,
    /// By symbol, if symbols are not ids.
    ids: Option<Vec<u32>>,
}

impl Derivation<'_> {
    /// Return the symbols that a token is merged into by the merges derived so far, which make all
    /// shorter tokens; None if they are not two.
    fn halves(&mut self, token: &[u8]) -> Result<Option<Pair>, Error> {
        let rules = Rules {
            merges: &self.table,
            ascending: false,
            first: &self.first,
            ids: None,
            whole: None,
            context: self.context,
        };
        if !self.first.know(token) {
            return Ok(None);
        }
        match self.merger.merge(rules, token)? {
            &[left, right] => Ok(Some((left, right))),
            _ => Ok(None),
        }
    }
}

impl Merges {
    /// Derive the merges of tiktoken's meaning of ids.
    pub(super) fn by_rank(
        context: &Context,
        tokens: &Tokens,
        of_byte: Box<[u32; 256]>,
    ) -> Result<Self, Error> {
        let mut derivation = Derivation {
            context,
            tokens,
            first: FirstSymbols::Bytes(of_byte),
            table: MergeTable::default(),
            merger: Merger::default(),
            ids: None,
        };
        let mut whole_differs = false;
        for (step, id) in (0..).zip(by_length(tokens, &derivation.first)) {
            context.check_at(step)?;
            match derivation.halves(tokens.get(id as usize).unwrap_or_default())? {
                Some(pair) => derivation.table.insert(pair, id),
                None => whole_differs = true,
            }
        }
        Ok(derivation.finish(whole_differs, true))
    }

    /// Derive those of the listed merges that can be applied.
    pub(super) fn listed(
        context: &Context,
        tokens: &Tokens,
        ids: &TokenIds,
        listed: &[Merge],
        model: &Model,
    ) -> Result<Self, Error> {
        let mut symbols = Vec::new();
        let (first, n_spelled) = first_symbols(ids, tokens, model, &mut symbols);
        let n_first = symbols.len();
        let n_free = (1usize << ID_BITS) - 1 - n_first;
        if listed.len() > n_free {
            return Err(Error::Vocabulary(format!(
                "there are {} merges: expected at most {n_free}",
                listed.len()
            )));
        }
        // Such a symbol stands for other text than its token is spelled. If it were merged, the ways to
        // make a token would differ from those that are derived here.
        let fallbacks = symbols[n_spelled..].to_vec();
        let mut ranks: FxHashMap<Pair, u32> = FxHashMap::default();
        for (rank, (left, right)) in (n_first as u32..).zip(listed) {
            context.check_at(rank)?;
            let id_of = |token: &[u8]| {
                ids.get(token).ok_or_else(|| {
                    Error::Vocabulary(format!(
                        "a merge has {}, which has no id: expected a token of the vocabulary",
                        describe(token)
                    ))
                })
            };
            let (left_id, right_id) = (id_of(left)?, id_of(right)?);
            for (id, token) in [(left_id, left), (right_id, right)] {
                if fallbacks.contains(&id) {
                    return Err(Error::Vocabulary(format!(
                        "a merge has {}, which stands for unknown text: expected no merge of it",
                        describe(token)
                    )));
                }
            }
            symbols.push(id_of(&[&left[..], right].concat())?);
            ranks.insert((left_id, right_id), rank); // of a pair that is given twice, the last counts
        }
        let mut derivation = Derivation {
            context,
            tokens,
            first,
            table: MergeTable::default(),
            merger: Merger::default(),
            ids: Some(symbols),
        };
        let (mut whole_differs, mut follow_ids) = (false, true);
        for (step, id) in (0..).zip(by_length(tokens, &derivation.first)) {
            context.check_at(step)?;
            let halves = derivation.halves(tokens.get(id as usize).unwrap_or_default())?;
            let rank = halves
                .and_then(|(left, right)| ranks.get(&(derivation.id(left), derivation.id(right))));
            match (halves, rank) {
                (Some(pair), Some(&rank)) => derivation.table.insert(pair, rank),
                _ => {
                    whole_differs = true;
                    follow_ids &= halves.is_none() && model.ignore_merges;
                }
            }
        }
        Ok(derivation.finish(whole_differs, follow_ids))
    }

    /// The id of a symbol.
    pub(super) fn id(&self, symbol: u32) -> u32 {
        self.ids.as_ref().map_or(symbol, |ids| ids[symbol as usize])
    }

    /// The tokens that merges make.
    pub(super) fn made<'a>(
        &'a self,
        tokens: &'a Tokens,
    ) -> impl Iterator<Item = &'a [u8]> + Clone + 'a {
        let made = self.table.iter().map(|(_, symbol)| self.id(symbol));
        made.filter_map(|id| tokens.get(id as usize))
    }

    /// The tokens that only whole pre-tokens become, if these are looked up.
    pub(super) fn only_whole<'a>(
        &self,
        tokens: &'a Tokens,
        looks_up_whole: bool,
    ) -> impl Iterator<Item = &'a [u8]> + 'a {
        let made: FxHashSet<u32> = match looks_up_whole {
            true => self
                .table
                .iter()
                .map(|(_, symbol)| self.id(symbol))
                .collect(),
            false => FxHashSet::default(),
        };
        let ids = 0..if looks_up_whole { tokens.n_vocab() } else { 0 };
        ids.filter(move |&id| !made.contains(&(id as u32)))
            .filter_map(|id| tokens.get(id))
    }
}

impl Derivation<'_> {
    /// The id of a symbol.
    fn id(&self, symbol: u32) -> u32 {
        self.ids.as_ref().map_or(symbol, |ids| ids[symbol as usize])
    }

    fn finish(mut self, whole_differs: bool, mut follow_ids: bool) -> Merges {
        let mut by_rank: Vec<_> = self.table.iter().collect();
        by_rank.sort_unstable_by_key(|&(_, symbol)| symbol);
        if let Some(ids) = &self.ids {
            let id = |symbol: u32| ids[symbol as usize];
            if by_rank.is_sorted_by_key(|&(_, symbol)| id(symbol)) {
                self.first.map(id);
                self.table = MergeTable::default();
                for ((left, right), symbol) in &mut by_rank {
                    (*left, *right, *symbol) = (id(*left), id(*right), id(*symbol));
                    self.table.insert((*left, *right), *symbol);
                }
                self.ids = None;
            } else {
                follow_ids = false;
            }
        }
        let is_above = |symbol, part| {
            let token = self.tokens.get(self.id(part) as usize);
            symbol > part || token.is_some_and(|token| self.first.is_one(token))
        };
        let ascending = by_rank
            .iter()
            .all(|&((left, right), symbol)| is_above(symbol, left) && is_above(symbol, right));
        Merges {
            follow_ids: follow_ids && matches!(self.first, FirstSymbols::Bytes(_)),
            table: self.table,
            first: self.first,
            ids: self.ids.map(Vec::into_boxed_slice),
            ascending,
            whole_differs,
        }
    }
}

/// The ids of the tokens of more than one first symbol, from the shortest to the longest.
fn by_length(tokens: &Tokens, first: &FirstSymbols) -> Vec<u32> {
    let is_longer = |id: &u32| tokens.get(*id as usize).is_some_and(|t| !first.is_one(t));
    let mut ids: Vec<u32> = (0..tokens.n_vocab() as u32).filter(is_longer).collect();
    ids.sort_by_key(|&id| tokens.get(id as usize).map_or(0, <[u8]>::len));
    ids
}

/// Number the first symbols, and write the id of each into `symbols`. Return how many of them, from the
/// start, stand for the byte or character that their token is.
fn first_symbols(
    ids: &TokenIds,
    tokens: &Tokens,
    model: &Model,
    symbols: &mut Vec<u32>,
) -> (FirstSymbols, usize) {
    let unknown = |symbols: &mut Vec<u32>, can_be: bool| Unknown {
        symbol: match model.unk {
            Some(id) if can_be => add(symbols, id),
            _ => NONE,
        },
        fuse: model.fuse_unk,
    };
    if !model.byte_fallback {
        let mut of_byte = Box::new([NONE; 256]);
        for byte in 0..=255u8 {
            if let Some(id) = ids.get(&[byte]) {
                of_byte[usize::from(byte)] = symbols.len() as u32;
                symbols.push(id);
            }
        }
        let n_spelled = symbols.len();
        if n_spelled == 256 {
            return (FirstSymbols::Bytes(of_byte), n_spelled);
        }
        let unknown = unknown(symbols, true);
        return (FirstSymbols::SomeBytes(of_byte, unknown), n_spelled);
    }
    let mut ascii = Box::new([NONE; 128]);
    let mut others = FxHashMap::default();
    for id in 0..tokens.n_vocab() as u32 {
        if let Some(c) = tokens.get(id as usize).and_then(only_char) {
            let symbol = symbols.len() as u32;
            match ascii.get_mut(c as usize) {
                Some(place) => *place = symbol,
                None => _ = others.insert(c, symbol),
            }
            symbols.push(id);
        }
    }
    let n_spelled = symbols.len();
    let mut bytes = Box::new([NONE; 256]);
    for byte in 0..=255u8 {
        if let Some(id) = ids.get(&byte_token(byte)) {
            bytes[usize::from(byte)] = add(symbols, id);
        }
    }
    let unknown = unknown(symbols, bytes.contains(&NONE));
    let first = FirstSymbols::Characters {
        ascii,
        others,
        bytes,
        unknown,
    };
    (first, n_spelled)
}

/// The symbol of `id`, which is added if there is none.
fn add(symbols: &mut Vec<u32>, id: u32) -> u32 {
    let known = symbols.iter().position(|&known| known == id);
    let symbol = known.unwrap_or(symbols.len());
    if known.is_none() {
        symbols.push(id);
    }
    symbol as u32
}
