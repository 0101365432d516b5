//! Merging several short pre-tokens at a time.
//!
//! Merging one pre-token is a chain: each merge decides which pairs to look up next, and the look-up
//! waits for memory. Several pre-tokens in turns wait together: each turn requests the pairs of one
//! pre-token, and reads them in its next turn, when they have arrived.

use super::merge_table::NONE;
use super::merger::Rules;
use super::pair_table::{PairSlot, PairTable};
use crate::util::piece_key::{Key, key_bytes};
use crate::vocab::MAX_ID;

/// The number of pre-tokens that are merged in turns.
pub(super) const MAX_WORDS: usize = 32;

/// A position after every byte of a short pre-token. Its token is [`END`].
const END_POSITION: usize = 15;

/// A symbol that merges with no other.
const END: u32 = MAX_ID + 1;

/// No merge: more than any rank.
const NEVER: i32 = i32::MAX;

/// A pre-token that has a key, as a doubly linked list of tokens.
#[derive(Debug, Clone, Copy, Default)]
struct Word {
    /// For each byte, the symbol of the token that begins there, or [`NONE`].
    tokens: [u32; 16],
    /// For each token, the merge with its right neighbour as rank * 16 + position, or [`NEVER`]. The
    /// smallest of these numbers is the merge of lowest rank, and of equal ranks the leftmost.
    ranks: [i32; 16],
    next: [u8; 16],
    previous: [u8; 16],
    /// The position of the token that was made last. The ranks of its merges are not looked up yet.
    made: u8,
    len: u8,
    /// Where the ranks of its merges are: with its right and with its left neighbour.
    slots: [PairSlot; 2],
}

/// The memory for merging pre-tokens in turns.
#[derive(Debug, Default)]
pub(super) struct Words {
    words: [Word; MAX_WORDS],
}

impl Words {
    /// Merge the pre-tokens of `keys`, at most [`MAX_WORDS`] short ones, and pass the position in `keys`
    /// and the ids of each to `done`, in no particular order. `pairs` has the merges of `rules`, and
    /// `of_byte` the first symbols.
    pub(super) fn merge(
        &mut self,
        rules: Rules<'_>,
        pairs: &PairTable,
        of_byte: &[u32; 256],
        keys: impl Iterator<Item = Key>,
        mut done: impl FnMut(usize, &[u32]),
    ) {
        let mut active = [0; MAX_WORDS];
        let mut n_active = 0;
        for (i, (word, key)) in self.words.iter_mut().zip(keys).enumerate() {
            word.start(rules, of_byte, key);
            active[n_active] = i;
            n_active += 1;
        }
        while n_active > 0 {
            let mut kept = 0;
            for turn in 0..n_active {
                let i = active[turn];
                let word = &mut self.words[i];
                if word.merge_once(pairs) {
                    active[kept] = i;
                    kept += 1;
                } else {
                    let (ids, n) = word.ids(rules);
                    done(i, &ids[..n]);
                }
            }
            n_active = kept;
            for &i in &active[..n_active] {
                self.words[i].look_up(pairs);
            }
        }
    }
}

impl Word {
    /// Begin with single bytes.
    fn start(&mut self, rules: Rules<'_>, of_byte: &[u32; 256], key: Key) {
        let (bytes, len) = key_bytes(key);
        *self = Word {
            tokens: [END; 16],
            ranks: [NEVER; 16],
            next: std::array::from_fn(|i| i as u8 + 1),
            previous: std::array::from_fn(|i| (i as u8).wrapping_sub(1) & 15),
            made: END_POSITION as u8,
            len: len as u8,
            slots: Default::default(),
        };
        for (token, byte) in self.tokens.iter_mut().zip(&bytes[..len]) {
            *token = of_byte[usize::from(*byte)];
        }
        for i in 0..len - 1 {
            self.ranks[i] = rank(rules.merges.get(self.tokens[i], self.tokens[i + 1]), i);
        }
        self.next[len - 1] = END_POSITION as u8;
    }

    /// Apply the merge of lowest rank, and prefetch the ranks of the new pairs. Return false if there is
    /// no merge.
    #[inline(always)]
    fn merge_once(&mut self, pairs: &PairTable) -> bool {
        let lowest = self
            .ranks
            .iter()
            .fold(NEVER, |lowest, &rank| lowest.min(rank));
        if lowest == NEVER {
            return false;
        }
        let left = lowest as usize & 15;
        let right = usize::from(self.next[left]) & 15;
        let after = usize::from(self.next[right]) & 15;
        let before = usize::from(self.previous[left]) & 15;
        let made = (lowest >> 4) as u32;
        (self.tokens[left], self.tokens[right]) = (made, NONE);
        self.ranks[right] = NEVER;
        self.next[left] = after as u8;
        self.previous[after] = left as u8;
        self.made = left as u8;
        self.slots = [
            pairs.prefetch((made, self.tokens[after])),
            pairs.prefetch((self.tokens[before], made)),
        ];
        true
    }

    /// Look up the ranks of the pairs of the token that was made last.
    #[inline(always)]
    fn look_up(&mut self, pairs: &PairTable) {
        let made = usize::from(self.made) & 15;
        let after = usize::from(self.next[made]) & 15;
        let before = usize::from(self.previous[made]) & 15;
        let [right, left] = self.slots;
        self.ranks[made] = rank(
            pairs.get((self.tokens[made], self.tokens[after]), right),
            made,
        );
        self.ranks[before] = rank(
            pairs.get((self.tokens[before], self.tokens[made]), left),
            before,
        );
    }

    /// The ids of the tokens and their number.
    fn ids(&self, rules: Rules<'_>) -> ([u32; 16], usize) {
        let mut ids = [0; 16];
        let mut n = 0;
        for &token in &self.tokens[..usize::from(self.len)] {
            ids[n] = token;
            n += usize::from(token != NONE);
        }
        if let Some(of_symbol) = rules.ids {
            for id in &mut ids[..n] {
                *id = of_symbol[*id as usize];
            }
        }
        (ids, n)
    }
}

#[inline(always)]
fn rank(merged: u32, position: usize) -> i32 {
    if merged == NONE {
        NEVER
    } else {
        (merged << 4) as i32 | position as i32
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::encode::merge_table::MergeTable;
    use crate::encode::tests::some_merges;
    use crate::naive;
    use crate::util::context::Context;
    use crate::util::piece_key::key_of;
    use crate::vocab::first_symbols::FirstSymbols;

    proptest! {
        #[test]
        fn merging_in_turns_equals_the_naive_merges(
            listed in some_merges(),
            pieces in prop::collection::vec("[ab]{1,15}|a{12,15}|[a-c]{1,15}|(abb){3,5}", 1..=MAX_WORDS),
            shift in 0..2u32,
        ) {
            let mut merges = MergeTable::default();
            for (id, &pair) in (256..).zip(&listed) {
                merges.insert(pair, id);
            }
            let of_byte: [u32; 256] = std::array::from_fn(|i| i as u32);
            // Ids that are not the symbols.
            let ids: Vec<u32> = (0..256 + listed.len() as u32).map(|symbol| symbol + shift).collect();
            let rules = Rules {
                merges: &merges,
                ascending: false,
                first: &FirstSymbols::Bytes(Box::new(of_byte)),
                ids: Some(&ids).filter(|_| shift > 0).map(|ids| &ids[..]),
                whole: None,
                context: &Context::default(),
            };
            let pairs = PairTable::new(&merges.iter().collect::<Vec<_>>());
            let keys = pieces.iter().map(|piece| key_of(piece.as_bytes()).unwrap());
            let mut merged = vec![Vec::new(); pieces.len()];
            let mut words = Words::default();
            words.merge(rules, &pairs, &of_byte, keys, |i, ids| merged[i] = ids.to_vec());
            for (piece, merged) in pieces.iter().zip(merged) {
                let expected = naive::encode(&listed, piece.as_bytes());
                let expected: Vec<u32> = expected.into_iter().map(|id| id + shift).collect();
                prop_assert_eq!(merged, expected, "{}", piece);
            }
        }
    }
}
