//! The words that the trainer merges tokens in.

use super::piece_counts::PieceCounts;
use crate::error::Error;
use crate::util::context::Context;
use crate::util::memory::{large_vec, prefetch};
use crate::vocab::Pair;

/// The number of bytes or tokens of one long word that are processed between two checks of the
/// context.
const CHECK_INTERVAL: usize = 1 << 16;

/// All distinct pre-tokens of two bytes or more, called words, with their counts and tokens.
pub(super) struct Words {
    /// One word after another: the number of tokens, the count (low 32 bits, then high 32 bits), and
    /// the tokens. Merging leaves gaps between words.
    memory: Vec<u32>,
    /// The position of each word in `memory`.
    starts: Vec<u32>,
}

/// The length of the header before a word's tokens.
const HEADER: usize = 3;

fn count_in(header: &[u32]) -> u64 {
    u64::from(header[2]) << 32 | u64::from(header[1])
}

impl Words {
    /// The tokens of each pre-token are what `append_tokens` appends: at most one for each byte.
    pub(super) fn new(
        context: &Context,
        counts: &PieceCounts,
        mut append_tokens: impl FnMut(&[u8], &mut Vec<u32>) -> Result<(), Error>,
    ) -> Result<Self, Error> {
        let (mut n_words, mut length) = (0, 0);
        counts.for_each(context, |piece, _| {
            if piece.len() > 1 {
                n_words += 1;
                length += HEADER + piece.len();
            }
            Ok(())
        })?;
        if u32::try_from(length).is_err() {
            return Err(Error::TooLong(format!(
                "the {n_words} distinct pre-tokens have {} bytes together, expected less than 4 GiB: \
                 train on less text or split it into shorter pre-tokens",
                length - HEADER * n_words
            )));
        }
        let mut words = Words {
            memory: large_vec(length)?,
            starts: large_vec(n_words)?,
        };
        counts.for_each(context, |piece, count| {
            if piece.len() > 1 {
                let start = words.memory.len();
                words.starts.push(start as u32);
                words.memory.extend([0, count as u32, (count >> 32) as u32]);
                append_tokens(piece, &mut words.memory)?;
                words.memory[start] = (words.memory.len() - start - HEADER) as u32;
            }
            Ok(())
        })?;
        Ok(words)
    }

    /// What [`Words::new`] takes for words of single bytes: id i is the byte `alphabet[i]`.
    pub(super) fn bytes<'a>(
        context: &'a Context,
        alphabet: &[u8; 256],
    ) -> impl FnMut(&[u8], &mut Vec<u32>) -> Result<(), Error> + 'a {
        let mut ids = [0; 256];
        for (id, &byte) in (0..).zip(alphabet) {
            ids[usize::from(byte)] = id;
        }
        move |piece, tokens| {
            for chunk in piece.chunks(CHECK_INTERVAL) {
                context.check()?;
                tokens.extend(chunk.iter().map(|&byte| ids[usize::from(byte)]));
            }
            Ok(())
        }
    }

    /// Prefetch the header and the first tokens of a word.
    #[inline(always)]
    pub(super) fn prefetch(&self, start: u32) {
        prefetch(&self.memory, start as usize);
        prefetch(&self.memory, start as usize + 16); // the next cache line
    }

    /// The length of a word, which the caller may reduce, its count, and its tokens.
    #[inline]
    pub(super) fn get_mut(&mut self, start: u32) -> (&mut u32, u64, &mut [u32]) {
        let (header, tokens) = self.memory[start as usize..].split_at_mut(HEADER);
        let (n_tokens, count) = (header[0] as usize, count_in(header));
        (&mut header[0], count, &mut tokens[..n_tokens])
    }

    /// The count of a word, and its tokens.
    #[inline]
    fn get(&self, start: u32) -> (u64, &[u32]) {
        let (header, tokens) = self.memory[start as usize..].split_at(HEADER);
        (count_in(header), &tokens[..header[0] as usize])
    }

    /// Call `visit` for each pair of adjacent tokens that is wanted, with the start and the count of
    /// its word. `part` is (i, n) for the words in the i-th of n equal parts.
    pub(super) fn for_each_pair(
        &self,
        context: &Context,
        part: (usize, usize),
        is_wanted: impl Fn(Pair) -> bool,
        mut visit: impl FnMut(Pair, u32, u64),
    ) -> Result<(), Error> {
        let mut wanted = Vec::new();
        let [first, end] = [part.0, part.0 + 1].map(|i| self.starts.len() * i / part.1);
        for (i, &start) in (0..).zip(&self.starts[first..end]) {
            context.check_at(i)?;
            let (count, mut tokens) = self.get(start);
            while tokens.len() > 1 {
                let chunk = &tokens[..tokens.len().min(CHECK_INTERVAL)];
                if wanted.len() < chunk.len() {
                    wanted.resize(chunk.len(), (0, 0));
                }
                // Which pairs are wanted is unpredictable, so they are collected without a branch.
                let mut n = 0;
                for two in chunk.windows(2) {
                    wanted[n] = (two[0], two[1]);
                    n += usize::from(is_wanted(wanted[n]));
                }
                for &pair in &wanted[..n] {
                    visit(pair, start, count);
                }
                tokens = &tokens[chunk.len() - 1..];
                if tokens.len() > 1 {
                    context.check()?;
                }
            }
        }
        Ok(())
    }
}
