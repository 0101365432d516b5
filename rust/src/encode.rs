//! Text to ids: byte-level BPE over each pre-token.
//!
//! The definition: start from single bytes; as long as some adjacent pair of tokens is a merge,
//! apply the merge of lowest rank (the leftmost of them if it occurs more than once).

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use rustc_hash::FxHashMap;

use crate::error::Error;
use crate::pretokenize::Pattern;
use crate::vocab::Vocab;

/// What each pair of ids merges into. A merge's rank is the id it makes: lower goes first.
pub type Merges = FxHashMap<(u32, u32), u32>;

/// The ids of `text`. Text that spells a special token is ordinary text here.
pub fn encode_ordinary(vocab: &Vocab, pattern: &Pattern, text: &str) -> Result<Vec<u32>, Error> {
    let mut ids = Vec::new();
    let mut merger = Merger::default();
    pattern.split(text, |piece| {
        encode_piece(vocab, &mut merger, piece.as_bytes(), &mut ids)
    })?;
    Ok(ids)
}

/// The ids of bytes that need not be UTF-8; for valid UTF-8 the same as [`encode_ordinary`].
pub fn encode_bytes(vocab: &Vocab, pattern: &Pattern, bytes: &[u8]) -> Result<Vec<u32>, Error> {
    let mut ids = Vec::new();
    let mut merger = Merger::default();
    pattern.split_bytes(bytes, |piece| {
        encode_piece(vocab, &mut merger, piece, &mut ids)
    })?;
    Ok(ids)
}

fn encode_piece(
    vocab: &Vocab,
    merger: &mut Merger,
    piece: &[u8],
    ids: &mut Vec<u32>,
) -> Result<(), Error> {
    // A vocabulary whose every token is what BPE makes of that token's own bytes (`Vocab::new`
    // refuses any other) gives the same id here as the merges would, only faster.
    if let Some(id) = vocab.id_of(piece) {
        ids.push(id);
        return Ok(());
    }
    let byte_ids = vocab.byte_ids();
    let piece_ids = piece.iter().map(|&byte| byte_ids[usize::from(byte)]);
    merger.merge(vocab.merges(), piece_ids, ids)
}

/// The merge loop, O(n log n) for n bytes, and the memory it uses again for each pre-token.
///
/// The tokens are a linked list over the positions of the pre-token's bytes. Each token stands at
/// the position of its first byte; the heap holds the merges that were possible when last looked
/// at, by rank and then position.
#[derive(Debug, Default)]
pub(crate) struct Merger {
    ids: Vec<u32>,
    next: Vec<u32>,
    previous: Vec<u32>,
    heap: BinaryHeap<Reverse<(u32, u32)>>,
}

/// Marks a position whose token was merged into the one on its left. No token has this id.
const MERGED: u32 = u32::MAX;

impl Merger {
    /// Append to `out` what `merges` make of the tokens `ids`.
    pub(crate) fn merge(
        &mut self,
        merges: &Merges,
        ids: impl Iterator<Item = u32>,
        out: &mut Vec<u32>,
    ) -> Result<(), Error> {
        self.ids.clear();
        self.ids.extend(ids);
        let end = u32::try_from(self.ids.len())
            .map_err(|_| Error::TooLong("a pre-token is longer than 4 GiB".into()))?;
        self.next.clear();
        self.next.extend(1..=end);
        self.previous.clear();
        self.previous.extend((0..end).map(|i| i.wrapping_sub(1)));
        self.heap.clear();
        for position in 0..end {
            self.offer(merges, position);
        }
        while let Some(Reverse((rank, left))) = self.heap.pop() {
            // The tokens may have changed since this merge was offered. Two different pairs never
            // make the same id, so an equal rank means that the same pair still stands here.
            if self.rank_at(merges, left) == Some(rank) {
                self.apply(merges, left, rank);
            }
        }
        out.extend(self.ids.iter().filter(|&&id| id != MERGED));
        Ok(())
    }

    /// The id that the token at `left` and the one after it merge into.
    fn rank_at(&self, merges: &Merges, left: u32) -> Option<u32> {
        let right = *self.next.get(left as usize)?;
        let right_id = *self.ids.get(right as usize)?;
        merges.get(&(self.ids[left as usize], right_id)).copied()
    }

    fn offer(&mut self, merges: &Merges, left: u32) {
        if let Some(rank) = self.rank_at(merges, left) {
            self.heap.push(Reverse((rank, left)));
        }
    }

    fn apply(&mut self, merges: &Merges, left: u32, merged_id: u32) {
        let right = self.next[left as usize];
        let after = self.next[right as usize];
        self.ids[left as usize] = merged_id;
        self.ids[right as usize] = MERGED;
        self.next[left as usize] = after;
        if let Some(previous) = self.previous.get_mut(after as usize) {
            *previous = left;
        }
        self.offer(merges, left);
        if left > 0 {
            self.offer(merges, self.previous[left as usize]);
        }
    }
}
