//! How often each distinct pre-token occurs in a text.

use std::collections::HashMap;
use std::sync::atomic::AtomicBool;

use crate::error::Error;
use crate::pretokenize::{BATCH, Pattern, Visitor};
use crate::util::interrupt::{check, check_at};
use crate::util::key::{MAX_SHORT, key_at, key_bytes, key_of};
use crate::util::key_map::KeyMap;
use crate::util::memory::copied;
use crate::util::parallel::for_each;

/// Distinct pre-tokens and their counts.
#[derive(Debug, Clone, Default)]
pub struct PieceCounts {
    /// Those of at most 15 bytes, which are nearly all.
    short: KeyMap<u64>,
    long: HashMap<Box<[u8]>, u64>,
    /// How much memory `long` takes, roughly.
    n_long_bytes: usize,
}

impl PieceCounts {
    /// The number of distinct pre-tokens.
    pub fn len(&self) -> usize {
        self.short.len() + self.long.len()
    }

    /// Whether nothing was counted.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// About how much memory they take.
    pub fn n_bytes(&self) -> usize {
        self.short.n_bytes() + self.n_long_bytes
    }

    /// Count the pre-tokens of one text, which need not be UTF-8.
    ///
    /// Fails if a regular expression gives up, or soon after `stop` has become
    /// true.
    pub fn add_text(
        &mut self,
        pattern: &Pattern,
        text: &[u8],
        stop: &AtomicBool,
    ) -> Result<(), Error> {
        let mut counting = Counting {
            text,
            counts: self,
            stop,
        };
        match std::str::from_utf8(text) {
            Ok(text) => pattern.visit(text, &mut counting),
            Err(_) => pattern.visit_bytes(text, &mut counting),
        }
    }

    /// Count `piece` another `count` times. Fails if there is no memory for a copy of it.
    pub fn add(&mut self, piece: &[u8], count: u64) -> Result<(), Error> {
        match key_of(piece) {
            Some(key) => *self.short.entry(key) += count,
            // Two look-ups, so that only a pre-token not seen before is copied.
            None => match self.long.get_mut(piece) {
                Some(known) => *known += count,
                None => {
                    self.n_long_bytes += piece.len() + 64;
                    self.long.insert(copied(piece)?.into_boxed_slice(), count);
                }
            },
        }
        Ok(())
    }

    /// Add the counts of another, which is emptied. Fails soon after `stop` has become true.
    pub fn append(&mut self, mut other: PieceCounts, stop: &AtomicBool) -> Result<(), Error> {
        if self.len() < other.len() {
            std::mem::swap(self, &mut other);
        }
        other.for_each(stop, |piece, count| self.add(piece, count))
    }

    /// Hand each distinct pre-token and its count to `visit`, in no particular order.
    ///
    /// Fails if `visit` does, or soon after `stop` has become true.
    pub fn for_each(
        &self,
        stop: &AtomicBool,
        mut visit: impl FnMut(&[u8], u64) -> Result<(), Error>,
    ) -> Result<(), Error> {
        for (step, (key, count)) in (0..).zip(self.short.iter()) {
            check_at(step, stop)?;
            let (bytes, length) = key_bytes(key);
            visit(&bytes[..length], count)?;
        }
        for (step, (piece, &count)) in (0..).zip(&self.long) {
            check_at(step, stop)?;
            visit(piece, count)?;
        }
        Ok(())
    }
}

/// Count the pre-tokens of `texts`, each by itself, with as many threads as `partial` has counts.
///
/// Each thread adds to counts of its own. The sum does not depend on which thread took which text.
pub fn count_texts<T: AsRef<[u8]> + Sync>(
    partial: &mut [PieceCounts],
    pattern: &Pattern,
    texts: &[T],
    stop: &AtomicBool,
) -> Result<(), Error> {
    for_each(partial, texts.len(), stop, |counts, i| {
        counts.add_text(pattern, texts[i].as_ref(), stop)
    })
}

/// A text that is being counted.
struct Counting<'a> {
    text: &'a [u8],
    counts: &'a mut PieceCounts,
    stop: &'a AtomicBool,
}

impl Visitor for Counting<'_> {
    #[inline(always)]
    fn pieces(&mut self, mut start: usize, ends: &[usize]) -> Result<(), Error> {
        // First all keys, so that the counts are near the processor when they are needed.
        let mut keys = [0; BATCH];
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
        check(self.stop)
    }
}
