//! The merge loop: single bytes of one pre-token in, what BPE makes of them out.
//!
//! The definition: as long as some adjacent pair of tokens is a merge, apply the merge of lowest rank
//! (the leftmost of them if it occurs more than once).

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::atomic::AtomicBool;

use rustc_hash::FxHashMap;

use crate::encode::merge_table::{Merges, NONE};
use crate::error::Error;
use crate::util::interrupt::{check, check_at};
use crate::util::memory::reserve;

/// Up to this many tokens the shortest way is to look for the lowest rank again and again.
const FEW: usize = 48;

/// More bytes than this are merged block by block: what is worked on shall stay near the processor.
/// Blocks are larger only where tokens are so long that joining the blocks would take more time.
const BLOCK: usize = 16384;

/// What a pre-token may leave behind in memory for the next one, in bytes of the pre-token.
const MAX_KEPT: usize = 1 << 20;

/// The same for each rank, in positions.
const MAX_KEPT_POSITIONS: usize = 32;

/// The memory of the merge loop, used again for each pre-token.
#[derive(Debug)]
pub struct Merger {
    /// For each byte of the pre-token the id of the token that begins there, or [`NONE`].
    ids: Vec<u32>,
    /// The same for the bytes on both sides of a seam.
    seam: Vec<u32>,
    links: Links,
    /// [`BLOCK`], but in tests.
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
            ids: Vec::new(),
            seam: Vec::new(),
            links: Links::default(),
            block,
        }
    }

    /// The tokens that `merges` make of `piece`, of which each byte is the token `byte_ids` says.
    ///
    /// Fails soon after `stop` has become true.
    pub fn merge(
        &mut self,
        merges: &Merges,
        byte_ids: &[u32; 256],
        piece: &[u8],
        stop: &AtomicBool,
    ) -> Result<&[u32], Error> {
        set_to_bytes(&mut self.ids, byte_ids, piece)?;
        if piece.len() <= FEW {
            merge_few(merges, &mut self.ids);
        } else {
            let (mut start, mut n_joined) = (0, 0);
            while start < piece.len() {
                check(stop)?;
                // All joins together take no longer than all blocks, as the next block has at least
                // as many bytes as a join went over.
                let end = piece.len().min(start + n_joined.max(self.block));
                self.links
                    .merge_many(merges, &mut self.ids[start..end], stop)?;
                if start > 0 {
                    n_joined = self.join(merges, byte_ids, &piece[..end], start, stop)?;
                }
                start = end;
            }
        }
        self.ids.retain(|&id| id != NONE);
        Ok(&self.ids)
    }

    /// Free what a very long pre-token has left behind.
    pub fn shrink(&mut self) {
        if self.ids.capacity() > MAX_KEPT {
            *self = Merger::with_blocks(self.block);
        }
    }

    /// Make the tokens of `piece[..at]` and the tokens of `piece[at..]` into those of all of `piece`.
    /// Returns the number of bytes that had to be merged anew.
    ///
    /// A few tokens on both sides of the seam are merged anew from their bytes; more and more, until
    /// the outermost of them come out as they were before. Then the others stand, too. For a sequence
    /// of tokens is what BPE makes of its bytes if and only if any two adjacent ones are what it makes
    /// of theirs. Proof: a merge makes only merges of higher rank possible, so ranks come up in
    /// ascending order. Until the first merge across a border between tokens, every token's bytes are
    /// merged as they would be if they were alone. So that merge takes place if all are merged
    /// together if and only if it does when the two tokens on its sides are.
    fn join(
        &mut self,
        merges: &Merges,
        byte_ids: &[u32; 256],
        piece: &[u8],
        at: usize,
        stop: &AtomicBool,
    ) -> Result<usize, Error> {
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

            set_to_bytes(&mut self.seam, byte_ids, &piece[start..end])?;
            self.links.merge_many(merges, &mut self.seam, stop)?;
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

fn set_to_bytes(ids: &mut Vec<u32>, byte_ids: &[u32; 256], bytes: &[u8]) -> Result<(), Error> {
    ids.clear();
    reserve(ids, bytes.len())?;
    ids.extend(bytes.iter().map(|&byte| byte_ids[usize::from(byte)]));
    Ok(())
}

/// The definition, with the ranks of all pairs kept: at most FEW * FEW steps.
///
/// Of single tokens it makes, in place, tokens followed by [`NONE`] for each further one they consist
/// of; so does [`Links::merge_many`].
fn merge_few(merges: &Merges, ids: &mut [u32]) {
    let n = ids.len();
    // The merge at each position that still has a token, as rank * 256 + position: the least of
    // these numbers is the merge of lowest rank, and of those the leftmost.
    let mut ranks = [NONE; FEW];
    // The positions of the next and of the previous token.
    let mut next: [u8; FEW] = std::array::from_fn(|i| i as u8 + 1);
    let mut previous: [u8; FEW] = std::array::from_fn(|i| (i as u8).wrapping_sub(1));
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

/// A position in a block, which is nearly always short.
fn position(n: usize) -> Result<u32, Error> {
    u32::try_from(n).map_err(|_| {
        Error::TooLong(format!(
            "{n} bytes of one pre-token have to be merged at once, expected less than 4 GiB: give \
             shorter texts, or a pattern that cuts them"
        ))
    })
}

/// A linked list of tokens, each at the position of its first byte.
#[derive(Debug, Default)]
struct Links {
    next: Vec<u32>,
    previous: Vec<u32>,
    /// For each rank the positions at which its merge was possible when last looked at.
    positions: FxHashMap<u32, Vec<u32>>,
    /// The ranks that have positions, lowest first.
    queue: BinaryHeap<Reverse<u32>>,
}

impl Links {
    /// The same as [`merge_few`] in O(n log n).
    ///
    /// A merge's rank is the id it makes, and it makes only merges of higher rank possible: so the
    /// ranks come up in ascending order, each once, and all the positions of a rank are known then.
    fn merge_many(
        &mut self,
        merges: &Merges,
        ids: &mut [u32],
        stop: &AtomicBool,
    ) -> Result<(), Error> {
        let end = position(ids.len())?;
        // If the last time was interrupted, there are some left.
        for Reverse(rank) in self.queue.drain() {
            self.positions.remove(&rank);
        }
        self.next.clear();
        self.next.extend(1..=end);
        self.previous.clear();
        self.previous.extend((0..end).map(|i| i.wrapping_sub(1)));
        for position in 0..end {
            check_at(position, stop)?;
            self.offer(merges, ids, position);
        }
        while let Some(Reverse(rank)) = self.queue.pop() {
            let mut positions = self.positions.remove(&rank).unwrap_or_default();
            // From left to right. They came in a few ascending runs, which this sort makes use of.
            positions.sort();
            for (step, left) in (0..).zip(positions.drain(..)) {
                check_at(step, stop)?;
                // The tokens may have changed since this merge was offered. Two different pairs never
                // make the same id, so an equal rank means that the same pair still stands here.
                if self.rank_at(merges, ids, left) == rank {
                    self.apply(merges, ids, left, rank);
                }
            }
            if positions.capacity() <= MAX_KEPT_POSITIONS {
                self.positions.insert(rank, positions); // its memory is used again
            }
        }
        Ok(())
    }

    fn apply(&mut self, merges: &Merges, ids: &mut [u32], left: u32, merged_id: u32) {
        let right = self.next[left as usize];
        let after = self.next[right as usize];
        (ids[left as usize], ids[right as usize]) = (merged_id, NONE);
        self.next[left as usize] = after;
        if let Some(previous) = self.previous.get_mut(after as usize) {
            *previous = left;
        }
        self.offer(merges, ids, left);
        if left > 0 {
            self.offer(merges, ids, self.previous[left as usize]);
        }
    }

    fn offer(&mut self, merges: &Merges, ids: &[u32], left: u32) {
        let rank = self.rank_at(merges, ids, left);
        if rank != NONE {
            let positions = self.positions.entry(rank).or_default();
            if positions.is_empty() {
                self.queue.push(Reverse(rank));
            }
            positions.push(left);
        }
    }

    /// The id that the token at `left` and the one after it merge into, or [`NONE`].
    fn rank_at(&self, merges: &Merges, ids: &[u32], left: u32) -> u32 {
        // A position that was merged into the token on its left has no id any more.
        let left_id = ids[left as usize];
        match ids.get(self.next[left as usize] as usize) {
            Some(&right_id) if left_id != NONE => merges.get(left_id, right_id),
            _ => NONE,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The definition: one merge after another, lowest rank first, from left to right.
    fn naive(merges: &[(u32, u32)], piece: &[u8]) -> Vec<u32> {
        let bytes = piece.iter().map(|&byte| u32::from(byte)).collect();
        (256..)
            .zip(merges)
            .fold(bytes, |word: Vec<u32>, (id, &pair)| {
                let mut merged: Vec<u32> = Vec::new();
                let mut rest = &word[..];
                while let [first, after @ ..] = rest {
                    let is_pair = after
                        .first()
                        .is_some_and(|&second| (*first, second) == pair);
                    merged.push(if is_pair { id } else { *first });
                    rest = &after[usize::from(is_pair)..];
                }
                merged
            })
    }

    /// Merges of a, b and what they make, none of them twice.
    fn some_merges() -> impl Strategy<Value = Vec<(u32, u32)>> {
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
        // yz goes first, then xy, and so on: the last letter decides how all before it pair up.
        let chain = (b'a'..=b'y')
            .rev()
            .map(|c| (u32::from(c), u32::from(c) + 1));
        prop_oneof![3 => some, 1 => Just(chain.collect())]
    }

    proptest! {
        #[test]
        fn blocks_are_joined_to_what_the_whole_is(
            listed in some_merges(),
            piece in "([ab]{49,200}|a{49,200}|b?a{49,150}b|(ab|aab){20,60}|(abb){20,60}a{0,3}|([a-c]{0,3}abcdefghijklmnopqrstuvwxyz?){2,8})",
            block in 1..70usize,
        ) {
            let mut merges = Merges::default();
            for (id, &pair) in (256..).zip(&listed) {
                merges.insert(pair, id);
            }
            let byte_ids = std::array::from_fn(|i| i as u32);
            let mut merger = Merger::with_blocks(block);
            let merged = merger.merge(&merges, &byte_ids, piece.as_bytes(), &AtomicBool::new(false));
            prop_assert_eq!(merged.unwrap(), naive(&listed, piece.as_bytes()));
        }
    }

    #[test]
    fn a_block_of_4_gib_is_refused() {
        assert_eq!(position(u32::MAX as usize), Ok(u32::MAX));
        assert!(matches!(position(1 << 32), Err(Error::TooLong(_))));
    }
}
