//! The merge loop: from the single bytes of one pre-token to its tokens.
//!
//! The definition: as long as some pair of adjacent tokens has a merge, apply the merge of lowest rank,
//! and of equal ones the leftmost. [`crate::naive::encode`] spells this out.

use super::linked_tokens::LinkedTokens;
use super::merge_table::{MergeTable, NONE};
use crate::error::Error;
use crate::util::context::Context;
use crate::util::memory::try_reserve;

/// Up to this many tokens, searching for the lowest rank again and again is fastest.
const MAX_SCANNED: usize = 48;

/// A longer pre-token is merged in blocks of this many bytes, so that the working memory stays in the
/// processor's cache. Blocks get larger only where tokens are so long that joining the blocks would
/// dominate.
const BLOCK_BYTES: usize = 16384;

/// The longest pre-token whose memory is kept for the next one, in bytes.
const MAX_KEPT_BYTES: usize = 1 << 20;

/// What to merge by, and the context of the call.
#[derive(Clone, Copy)]
pub(crate) struct Rules<'a> {
    pub(crate) merges: &'a MergeTable,
    /// The id of each single byte.
    pub(crate) byte_ids: &'a [u32; 256],
    pub(crate) context: &'a Context,
}

/// The memory of the merge loop, reused for each pre-token.
#[derive(Debug)]
pub(crate) struct Merger {
    /// For each byte of the pre-token, the id of the token that begins there, or [`NONE`].
    ids: Vec<u32>,
    /// The same for the bytes on both sides of a seam between blocks.
    seam: Vec<u32>,
    linked: LinkedTokens,
    /// [`BLOCK_BYTES`], except in tests.
    block: usize,
}

impl Default for Merger {
    fn default() -> Self {
        Merger::with_blocks(BLOCK_BYTES)
    }
}

impl Merger {
    fn with_blocks(block: usize) -> Self {
        Merger {
            ids: Vec::new(),
            seam: Vec::new(),
            linked: LinkedTokens::default(),
            block,
        }
    }

    /// Return the ids that `piece` is merged into.
    ///
    /// # Errors
    /// Fails if there is not enough memory, if 4 GiB of `piece` would have to be merged at once, or if
    /// the context is stopped.
    pub(crate) fn merge(&mut self, rules: Rules<'_>, piece: &[u8]) -> Result<&[u32], Error> {
        set_to_bytes(&mut self.ids, rules, piece)?;
        if piece.len() <= MAX_SCANNED {
            merge_by_scanning(rules.merges, &mut self.ids);
        } else {
            let (mut start, mut n_joined) = (0, 0);
            while start < piece.len() {
                rules.context.check()?;
                // The next block has at least as many bytes as the last join merged again. So all joins
                // together take no longer than all blocks.
                let end = piece.len().min(start + n_joined.max(self.block));
                self.linked.merge(rules, &mut self.ids[start..end])?;
                if start > 0 {
                    n_joined = self.join(rules, &piece[..end], start)?;
                }
                start = end;
            }
        }
        self.ids.retain(|&id| id != NONE);
        Ok(&self.ids)
    }

    /// Free the memory that a very long pre-token has left behind.
    pub(crate) fn shrink(&mut self) {
        if self.ids.capacity() > MAX_KEPT_BYTES {
            *self = Merger::with_blocks(self.block);
        }
    }

    /// Combine the tokens of `piece[..at]` and those of `piece[at..]` into the tokens of `piece`.
    /// Return the number of bytes that were merged again.
    ///
    /// A few tokens on both sides of the seam are merged again from their bytes, then more and more,
    /// until the outermost of them come out unchanged. Then all tokens farther away are right too,
    /// because a sequence of tokens is what BPE makes of its bytes if and only if the same holds for
    /// any two adjacent tokens of it. Proof: a merge makes only merges of higher rank possible, so the
    /// ranks of the merges ascend. Until the first merge across a border between tokens, the bytes of
    /// every token are merged as if the token were alone. So that merge happens in the whole sequence
    /// if and only if it happens when the two tokens beside the border are merged by themselves.
    fn join(&mut self, rules: Rules<'_>, piece: &[u8], at: usize) -> Result<usize, Error> {
        let is_token = |&(_, &id): &(usize, &u32)| id != NONE;
        let mut n_tokens = 4;
        loop {
            let (before, after) = self.ids[..piece.len()].split_at(at);
            let before = before.iter().enumerate().filter(is_token);
            let mut after = after.iter().enumerate().filter(is_token);
            let first = before.rev().nth(n_tokens - 1);
            let last = after.nth(n_tokens - 1);
            let end = after.next().map_or(piece.len(), |(i, _)| at + i);
            let start = first.map_or(0, |(i, _)| i);

            set_to_bytes(&mut self.seam, rules, &piece[start..end])?;
            self.linked.merge(rules, &mut self.seam)?;
            let last_now = self.seam.iter().rfind(|&&id| id != NONE);
            let left_fits = start == 0 || first.map(|(_, id)| id) == self.seam.first();
            let right_fits = end == piece.len() || last.map(|(_, id)| id) == last_now;
            if left_fits && right_fits {
                self.ids[start..end].copy_from_slice(&self.seam);
                return Ok(end - start);
            }
            n_tokens *= 4;
        }
    }
}

fn set_to_bytes(ids: &mut Vec<u32>, rules: Rules<'_>, bytes: &[u8]) -> Result<(), Error> {
    ids.clear();
    try_reserve(ids, bytes.len())?;
    ids.extend(bytes.iter().map(|&byte| rules.byte_ids[usize::from(byte)]));
    Ok(())
}

/// Merge in place by the definition, with the ranks of all pairs at hand: at most [`MAX_SCANNED`]²
/// steps.
///
/// On return, each token is at the position of its first byte, and its other positions are [`NONE`].
/// [`LinkedTokens::merge`] does the same.
fn merge_by_scanning(merges: &MergeTable, ids: &mut [u32]) {
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
        let lowest = ranks[..n]
            .iter()
            .fold(NONE, |lowest, &rank| lowest.min(rank));
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
    use proptest::prelude::*;

    use super::*;
    use crate::naive;
    use crate::vocab::Pair;

    /// Merges of a, b and the tokens that they make, each of them once.
    fn some_merges() -> impl Strategy<Value = Vec<Pair>> {
        let sides = prop::collection::vec(
            (any::<prop::sample::Index>(), any::<prop::sample::Index>()),
            0..40,
        );
        let some = sides.prop_map(|sides| {
            let mut tokens: Vec<u32> = vec![b'a'.into(), b'b'.into()];
            let mut merges = Vec::new();
            for (left, right) in sides {
                let pair = (*left.get(&tokens), *right.get(&tokens));
                if !merges.contains(&pair) {
                    tokens.push(256 + merges.len() as u32);
                    merges.push(pair);
                }
            }
            merges
        });
        // yz is merged first, then xy, and so on, so the last letter decides how all others pair up.
        let chain = (b'a'..=b'y')
            .rev()
            .map(|c| (u32::from(c), u32::from(c) + 1));
        prop_oneof![3 => some, 1 => Just(chain.collect())]
    }

    proptest! {
        #[test]
        fn joined_blocks_equal_the_whole(
            listed in some_merges(),
            piece in "([ab]{49,200}|a{49,200}|b?a{49,150}b|(ab|aab){20,60}|(abb){20,60}a{0,3}|([a-c]{0,3}abcdefghijklmnopqrstuvwxyz?){2,8})",
            block in 1..70usize,
        ) {
            let mut merges = MergeTable::default();
            for (id, &pair) in (256..).zip(&listed) {
                merges.insert(pair, id);
            }
            let rules = Rules {
                merges: &merges,
                byte_ids: &std::array::from_fn(|i| i as u32),
                context: &Context::default(),
            };
            let mut merger = Merger::with_blocks(block);
            let merged = merger.merge(rules, piece.as_bytes()).unwrap();
            prop_assert_eq!(merged, naive::encode(&listed, piece.as_bytes()));
        }
    }
}
