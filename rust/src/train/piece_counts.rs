//! The counts of distinct pre-tokens, also called pieces.

use std::collections::HashMap;

use crate::error::Error;
use crate::pretokenize::{BATCH_PIECES, Pattern, Visitor};
use crate::util::context::Context;
use crate::util::hash_map::KeyMap;
use crate::util::memory::try_copy;
use crate::util::parallel::for_each;
use crate::util::piece_key::{MAX_SHORT, key_at, key_bytes, key_of};

/// Distinct pre-tokens and their counts.
#[derive(Debug, Clone, Default)]
pub struct PieceCounts {
    /// Pre-tokens of at most 15 bytes, which nearly all are.
    short: KeyMap<u64>,
    long: HashMap<Box<[u8]>, u64>,
    /// About how much memory `long` takes.
    n_long_bytes: usize,
}

impl PieceCounts {
    /// The number of distinct pre-tokens.
    pub fn len(&self) -> usize {
        self.short.len() + self.long.len()
    }

    /// Whether there are no counts.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The approximate size in memory, in bytes.
    pub fn n_bytes(&self) -> usize {
        self.short.n_bytes() + self.n_long_bytes
    }

    /// Count the pre-tokens of one text, which need not be UTF-8.
    ///
    /// # Errors
    /// Fails if a regular expression gives up, if there is not enough memory, or if `context` is
    /// stopped.
    pub fn add_text(
        &mut self,
        context: &Context,
        pattern: &Pattern,
        text: &[u8],
    ) -> Result<(), Error> {
        let mut counter = TextCounter {
            context,
            text,
            counts: self,
        };
        match std::str::from_utf8(text) {
            Ok(text) => pattern.visit(text, &mut counter),
            Err(_) => pattern.visit_bytes(text, &mut counter),
        }
    }

    /// Add `count` to the count of `piece`. Fails if there is no memory for a copy of it.
    pub fn add(&mut self, piece: &[u8], count: u64) -> Result<(), Error> {
        match key_of(piece) {
            Some(key) => *self.short.entry(key) += count,
            // Look it up before inserting, so that only a new pre-token is copied.
            None => match self.long.get_mut(piece) {
                Some(known) => *known += count,
                None => {
                    self.n_long_bytes += piece.len() + 64;
                    self.long.insert(try_copy(piece)?.into_boxed_slice(), count);
                }
            },
        }
        Ok(())
    }

    /// Add all counts of `other`.
    ///
    /// # Errors
    /// Fails if there is not enough memory, or if `context` is stopped.
    pub fn append(&mut self, context: &Context, mut other: PieceCounts) -> Result<(), Error> {
        if self.len() < other.len() {
            std::mem::swap(self, &mut other);
        }
        other.for_each(context, |piece, count| self.add(piece, count))
    }

    /// Call `visit` with each distinct pre-token and its count, in no particular order.
    ///
    /// # Errors
    /// Fails if `visit` fails, or if `context` is stopped.
    pub fn for_each(
        &self,
        context: &Context,
        mut visit: impl FnMut(&[u8], u64) -> Result<(), Error>,
    ) -> Result<(), Error> {
        for (step, (key, count)) in (0..).zip(self.short.iter()) {
            context.check_at(step)?;
            let (bytes, length) = key_bytes(key);
            visit(&bytes[..length], count)?;
        }
        for (step, (piece, &count)) in (0..).zip(&self.long) {
            context.check_at(step)?;
            visit(piece, count)?;
        }
        Ok(())
    }
}

/// Count the pre-tokens of each text, with one thread for each of `partial`. The number beside a text is
/// the one by which an error names it.
///
/// Each thread adds to its own counts. Their sum does not depend on which thread took which text.
///
/// # Errors
/// As [`PieceCounts::add_text`].
pub fn count_texts<T: AsRef<[u8]> + Sync>(
    context: &Context,
    partial: &mut [PieceCounts],
    pattern: &Pattern,
    texts: &[(usize, T)],
) -> Result<(), Error> {
    for_each(context, partial, texts.len(), |counts, i| {
        let (number, text) = &texts[i];
        let added = counts.add_text(context, pattern, text.as_ref());
        added.map_err(|error| error.in_text(*number))
    })
}

/// Counts the pre-tokens of one text.
struct TextCounter<'a> {
    context: &'a Context,
    text: &'a [u8],
    counts: &'a mut PieceCounts,
}

impl Visitor for TextCounter<'_> {
    #[inline(always)]
    fn pieces(&mut self, mut start: usize, ends: &[usize]) -> Result<(), Error> {
        // Compute all keys first and prefetch their counts.
        let mut keys = [0; BATCH_PIECES];
        let mut begin = start;
        for (key, &end) in keys.iter_mut().zip(ends) {
            *key = key_at(self.text, begin, end);
            self.counts.short.prefetch(*key);
            begin = end;
        }
        for (&key, &end) in keys.iter().zip(ends) {
            if end - start <= MAX_SHORT {
                *self.counts.short.entry(key) += 1;
            } else {
                self.counts.add(&self.text[start..end], 1)?;
            }
            start = end;
        }
        self.context.check()
    }
}
