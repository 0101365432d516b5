//! The merge loop: from the first symbols of one pre-token to its tokens.
//!
//! The definition: as long as some pair of adjacent tokens has a merge, apply the merge of lowest rank,
//! and of equal ones the leftmost. [`crate::naive::merge`] spells this out.
//!
//! The loop works on symbols, which are numbered so that the symbol that a merge makes is also the rank
//! of that merge. In most vocabularies, ids have this property, and symbols are ids.

use std::ops::Range;

use super::linked_tokens::LinkedTokens;
use super::merge_table::{MergeTable, NONE};
use crate::error::Error;
use crate::pretokenize::Level;
use crate::util::context::Context;
use crate::util::memory::try_reserve;
use crate::vocab::first_symbols::FirstSymbols;
use crate::vocab::tokens::TokenIds;

/// Up to this many tokens, searching for the lowest rank again and again is fastest.
const MAX_SCANNED: usize = 128;

/// The number of ranks that are compared at a time, which divides [`MAX_SCANNED`].
const LANES: usize = 16;

/// A longer pre-token is merged in blocks of this many symbols, so that the working memory stays in the
/// processor's cache. Blocks get larger only where tokens are so long that joining the blocks would
/// dominate.
const BLOCK: usize = 16384;

/// The longest pre-token whose memory is kept for the next one, in symbols.
const MAX_KEPT: usize = 1 << 20;

/// What to merge by, and the context of the call.
#[derive(Clone, Copy)]
pub(crate) struct Rules<'a> {
    pub(crate) merges: &'a MergeTable,
    /// Whether a merge makes only merges of higher rank possible.
    pub(crate) ascending: bool,
    pub(crate) first: &'a FirstSymbols,
    /// The id of each symbol; None if the symbols are ids.
    pub(crate) ids: Option<&'a [u32]>,
    /// The tokens that a whole pre-token is looked up in, before it is merged.
    pub(crate) whole: Option<&'a TokenIds>,
    pub(crate) context: &'a Context,
}

/// The memory of the merge loop, reused for each pre-token.
#[derive(Debug)]
pub(crate) struct Merger {
    /// At the place of each first symbol, the token that begins there, or [`NONE`].
    tokens: Vec<u32>,
    /// The same for the symbols on both sides of a seam between blocks.
    seam: Vec<u32>,
    /// The first symbols, if they are not those of single bytes.
    first: Vec<u32>,
    linked: LinkedTokens,
    /// [`BLOCK`], except in tests.
    block: usize,
}

impl Default for Merger {
    fn default() -> Self {
        Merger::with_blocks(BLOCK)
    }
}

impl Merger {
    fn with_blocks(block: usize) -> Self {
        Merger {
            tokens: Vec::new(),
            seam: Vec::new(),
            first: Vec::new(),
            linked: LinkedTokens::default(),
            block,
        }
    }

    /// Return the ids of `piece`.
    ///
    /// # Errors
    /// Fails if there is not enough memory, if 4 GiB of `piece` would have to be merged at once, or if
    /// the context is stopped.
    pub(crate) fn encode(&mut self, rules: Rules<'_>, piece: &[u8]) -> Result<&[u32], Error> {
        if let Some(id) = rules.whole.and_then(|tokens| tokens.get(piece)) {
            self.tokens.clear();
            self.tokens.push(id);
            return Ok(&self.tokens);
        }
        self.merge(rules, piece)?;
        if let Some(ids) = rules.ids {
            for token in &mut self.tokens {
                *token = ids[*token as usize];
            }
        }
        Ok(&self.tokens)
    }

    /// Return the symbols that `piece` is merged into.
    ///
    /// # Errors
    /// As [`Merger::encode`].
    pub(crate) fn merge(&mut self, rules: Rules<'_>, piece: &[u8]) -> Result<&[u32], Error> {
        if let FirstSymbols::Bytes(of_byte) = rules.first {
            self.merge_all(rules, Symbols::OfBytes(piece, of_byte))?;
        } else {
            let mut first = std::mem::take(&mut self.first);
            rules.first.write(rules.context, piece, &mut first)?;
            self.merge_all(rules, Symbols::Listed(&first))?;
            self.first = first;
        }
        self.tokens.retain(|&token| token != NONE);
        Ok(&self.tokens)
    }

    fn merge_all(&mut self, rules: Rules<'_>, symbols: Symbols<'_>) -> Result<(), Error> {
        let n = symbols.len();
        symbols.write(0..n, &mut self.tokens)?;
        if n <= MAX_SCANNED {
            merge_by_scanning(rules.merges, &mut self.tokens);
            return Ok(());
        }
        let (mut start, mut n_joined) = (0, 0);
        while start < n {
            rules.context.check()?;
            // The next block has at least as many symbols as the last join merged again. So all joins
            // together take no longer than all blocks.
            let end = n.min(start + n_joined.max(self.block));
            self.linked.merge(rules, &mut self.tokens[start..end])?;
            if start > 0 {
                n_joined = self.join(rules, symbols, end, start)?;
            }
            start = end;
        }
        Ok(())
    }

    /// Free the memory that a very long pre-token has left behind.
    pub(crate) fn shrink(&mut self) {
        if self.tokens.capacity() > MAX_KEPT {
            *self = Merger::with_blocks(self.block);
        }
    }

    /// Combine the tokens of the symbols before `at` and those of `at..n` into the tokens of `0..n`.
    /// Return the number of symbols that were merged again.
    ///
    /// A few tokens on both sides of the seam are merged again from their first symbols, then more and
    /// more, until the outermost of them come out unchanged. Then all tokens farther away are right too,
    /// because a sequence of tokens is what BPE makes of its symbols if and only if the same holds for
    /// any two adjacent tokens of it. Proof: each step takes the lowest pair (rank, place) of all. Until
    /// the first merge across a border between tokens, those steps of the whole that are within two
    /// adjacent tokens are the steps of these two by themselves: the lowest of all is the lowest of the
    /// two, and no other step changes what they can do. So the whole has a merge across some border if
    /// and only if two adjacent tokens have one. This holds for ranks in any order.
    fn join(
        &mut self,
        rules: Rules<'_>,
        symbols: Symbols<'_>,
        n: usize,
        at: usize,
    ) -> Result<usize, Error> {
        let is_token = |&(_, &token): &(usize, &u32)| token != NONE;
        let mut n_tokens = 4;
        loop {
            let (before, after) = self.tokens[..n].split_at(at);
            let before = before.iter().enumerate().filter(is_token);
            let mut after = after.iter().enumerate().filter(is_token);
            let first = before.rev().nth(n_tokens - 1);
            let last = after.nth(n_tokens - 1);
            let end = after.next().map_or(n, |(i, _)| at + i);
            let start = first.map_or(0, |(i, _)| i);

            symbols.write(start..end, &mut self.seam)?;
            self.linked.merge(rules, &mut self.seam)?;
            let last_now = self.seam.iter().rfind(|&&token| token != NONE);
            let left_fits = start == 0 || first.map(|(_, token)| token) == self.seam.first();
            let right_fits = end == n || last.map(|(_, token)| token) == last_now;
            if left_fits && right_fits {
                self.tokens[start..end].copy_from_slice(&self.seam);
                return Ok(end - start);
            }
            n_tokens *= 4;
        }
    }
}

/// The first symbols of a pre-token.
#[derive(Clone, Copy)]
enum Symbols<'a> {
    /// Those of its bytes.
    OfBytes(&'a [u8], &'a [u32; 256]),
    Listed(&'a [u32]),
}

impl Symbols<'_> {
    fn len(self) -> usize {
        match self {
            Symbols::OfBytes(bytes, _) => bytes.len(),
            Symbols::Listed(symbols) => symbols.len(),
        }
    }

    fn write(self, range: Range<usize>, into: &mut Vec<u32>) -> Result<(), Error> {
        into.clear();
        try_reserve(into, range.len())?;
        match self {
            Symbols::OfBytes(bytes, of_byte) => {
                into.extend(bytes[range].iter().map(|&byte| of_byte[usize::from(byte)]));
            }
            Symbols::Listed(symbols) => into.extend_from_slice(&symbols[range]),
        }
        Ok(())
    }
}

/// Merge in place by the definition, with the ranks of all pairs at hand: at most [`MAX_SCANNED`]²
/// steps.
///
/// On return, each token is at the position of its first byte, and its other positions are [`NONE`].
/// [`LinkedTokens::merge`] does the same.
fn merge_by_scanning(merges: &MergeTable, ids: &mut [u32]) {
    match Level::best() {
        // SAFETY: the processor has the instructions of this level.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { scan_with_avx512(merges, ids) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { scan_with_avx2(merges, ids) },
        Level::Portable => scan(merges, ids),
    }
}

// `scan` is inlined into these two functions, and so compiled for these instructions.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,bmi1,bmi2,lzcnt,popcnt")]
fn scan_with_avx512(merges: &MergeTable, ids: &mut [u32]) {
    scan(merges, ids);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
fn scan_with_avx2(merges: &MergeTable, ids: &mut [u32]) {
    scan(merges, ids);
}

#[inline(always)]
fn scan(merges: &MergeTable, ids: &mut [u32]) {
    let n = ids.len();
    // For each token, the merge with its right neighbour as rank * 256 + position. The smallest of
    // these numbers is the merge of lowest rank, and of equal ranks the leftmost.
    let mut ranks = [NONE; MAX_SCANNED];
    // The positions of the next and of the previous token.
    let mut next: [u8; MAX_SCANNED] = std::array::from_fn(|i| i as u8 + 1);
    let mut previous: [u8; MAX_SCANNED] = std::array::from_fn(|i| (i as u8).wrapping_sub(1));
    let rank = |left: u32, right: u32, position: usize| match merges.get(left, right) {
        NONE => NONE,
        rank => rank << 8 | position as u32,
    };
    for (i, pair) in ids.windows(2).enumerate() {
        ranks[i] = rank(pair[0], pair[1], i);
    }
    loop {
        let mut lowest = [NONE; LANES];
        for some in &ranks.as_chunks::<LANES>().0[..n.div_ceil(LANES)] {
            lowest = std::array::from_fn(|i| lowest[i].min(some[i]));
        }
        let lowest = lowest.into_iter().fold(NONE, u32::min);
        if lowest == NONE {
            break;
        }
        let left = (lowest & 0xff) as usize;
        let right = usize::from(next[left]);
        let after = usize::from(next[right]);
        (ids[left], ids[right]) = (lowest >> 8, NONE);
        ranks[right] = NONE;
        next[left] = after as u8;
        ranks[left] = NONE;
        if after < n {
            previous[after] = left as u8;
            ranks[left] = rank(ids[left], ids[after], left);
        }
        if left > 0 {
            let before = usize::from(previous[left]);
            ranks[before] = rank(ids[before], ids[left], before);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;
    use crate::encode::tests::some_merges;
    use crate::naive;
    use crate::vocab::Pair;

    /// `some_merges`, or a chain of them.
    fn merges_or_a_chain() -> impl Strategy<Value = Vec<Pair>> {
        // yz is merged first, then xy, and so on, so the last letter decides how all others pair up.
        let chain = (b'a'..=b'y')
            .rev()
            .map(|c| (u32::from(c), u32::from(c) + 1));
        prop_oneof![3 => some_merges(), 1 => Just(chain.collect())]
    }

    proptest! {
        #[test]
        fn joined_blocks_equal_the_whole(
            listed in merges_or_a_chain(),
            piece in "([ab]{129,300}|a{129,300}|b?a{129,200}b|(ab|aab){70,100}|(abb){45,80}a{0,3}|([a-c]{0,3}abcdefghijklmnopqrstuvwxyz?){2,8})",
            block in 1..70usize,
            shuffled in Just((256..300).collect::<Vec<u32>>()).prop_shuffle(),
            in_order: bool,
        ) {
            // The symbol that each merge makes, which is its rank.
            let made = |id: u32| match id.checked_sub(256) {
                Some(i) if !in_order => shuffled[i as usize],
                _ => id,
            };
            let mut merges = MergeTable::default();
            let mut by_pair = HashMap::new();
            for (id, &(left, right)) in (256..).zip(&listed) {
                let (pair, symbol) = ((made(left), made(right)), made(id));
                merges.insert(pair, symbol);
                by_pair.insert(pair, (symbol, symbol));
            }
            let rules = Rules {
                merges: &merges,
                ascending: in_order,
                first: &FirstSymbols::Bytes(Box::new(std::array::from_fn(|i| i as u32))),
                ids: None,
                whole: None,
                context: &Context::default(),
            };
            let mut merger = Merger::with_blocks(block);
            let merged = merger.encode(rules, piece.as_bytes()).unwrap();
            let first = piece.bytes().map(u32::from).collect();
            prop_assert_eq!(merged, naive::merge(&by_pair, first));
            if in_order {
                prop_assert_eq!(merged, naive::encode(&listed, piece.as_bytes()));
            }
        }
    }
}
