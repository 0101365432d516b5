//! The encoding of one text: look up each pre-token in the cache, and merge those that are not there.

use std::ops::Range;

use super::budget::Reservation;
use super::cache::{Cache, HomeBucket, MAX_CACHED_BYTES};
use super::merger::{Merger, Rules};
use super::packed_ids::{Id, LANES};
use super::{Scratch, Tokenizer};
use crate::error::Error;
use crate::pretokenize::{BATCH_PIECES, Visitor};
use crate::util::context::Context;
use crate::util::piece_key::{Key, MAX_SHORT, is_long, key_at, long_key};

/// The size of the output buffer, in ids. The ids of [`BATCH_PIECES`] pre-tokens fill at most half of it.
pub(super) const BUFFER_IDS: usize = 2 * BATCH_PIECES * LANES;

/// Encodes one text.
pub(super) struct TextEncoder<'a, I, F> {
    rules: Rules<'a>,
    tokenizer: &'a Tokenizer,
    text: &'a [u8],
    reservation: &'a mut Reservation,
    cache: &'a mut Cache,
    /// The keys of the current batch of pre-tokens, and where the cache keeps them.
    lookups: &'a mut [(Key, HomeBucket); BATCH_PIECES],
    merger: &'a mut Merger,
    output: Output<'a, I, F>,
}

impl<I: Id, F: FnMut(&[I]) -> Result<(), Error>> Visitor for TextEncoder<'_, I, F> {
    #[inline(always)]
    fn pieces(&mut self, first_start: usize, ends: &[usize]) -> Result<(), Error> {
        self.output.context.check()?;
        if self.cache.is_full() {
            self.tokenizer.grow(self.cache, self.reservation);
        }
        if self.output.n > BUFFER_IDS / 2 {
            self.output.flush()?;
        }
        // First compute all keys and prefetch their buckets, then read the buckets.
        let (text, table) = (self.text, self.cache.table());
        let mut start = first_start;
        for (lookup, &end) in self.lookups.iter_mut().zip(ends) {
            let key = if end - start <= MAX_SHORT {
                key_at(text, start, end)
            } else if end - start <= MAX_CACHED_BYTES {
                long_key(&text[start..end])
            } else {
                Key::MAX // equals no key in the table
            };
            *lookup = (key, table.prefetch(key));
            start = end;
        }
        let mut done = 0;
        loop {
            done += self.emit_cached(done..ends.len());
            let Some(&end) = ends.get(done) else {
                return Ok(());
            };
            let start = done.checked_sub(1).map_or(first_start, |i| ends[i]);
            self.emit_one(self.lookups[done], start, end)?;
            done += 1;
        }
    }
}

impl<'a, I: Id, F: FnMut(&[I]) -> Result<(), Error>> TextEncoder<'a, I, F> {
    pub(super) fn new(
        context: &'a Context,
        tokenizer: &'a Tokenizer,
        scratch: &'a mut Scratch,
        text: &'a [u8],
        emit: F,
    ) -> Self {
        let Scratch {
            reservation,
            cache,
            lookups,
            merger,
            buffer,
        } = scratch;
        TextEncoder {
            rules: tokenizer.vocab.rules(context),
            tokenizer,
            text,
            reservation,
            cache,
            lookups,
            merger,
            output: Output {
                context,
                buffer: bytemuck::cast_slice_mut(buffer),
                n: 0,
                emit,
            },
        }
    }

    /// Encode the text; `text` is the same if it is UTF-8.
    pub(super) fn run(mut self, text: Option<&str>) -> Result<(), Error> {
        match text {
            Some(text) => self.tokenizer.pattern.visit(text, &mut self)?,
            None => self.tokenizer.pattern.visit_bytes(self.text, &mut self)?,
        }
        self.output.flush()
    }

    /// Write the ids of pre-tokens until one is not in its home bucket or the buffer is full. Return the
    /// number of pre-tokens written.
    #[inline(always)]
    fn emit_cached(&mut self, lookups: Range<usize>) -> usize {
        let (cache, buffer) = (&*self.cache, &mut *self.output.buffer);
        let table = cache.table();
        let mut n = self.output.n;
        let mut done = 0;
        for &(key, home) in &self.lookups[lookups] {
            let free = buffer[n..].first_chunk_mut::<LANES>();
            let (Some(packed), Some(free)) = (table.get(key, home), free) else {
                break;
            };
            let count;
            (*free, count) = I::unpack(packed);
            if count <= LANES {
                n += count;
            } else if is_long(key) {
                break;
            } else {
                let ids = cache.overflow::<I>(packed);
                let Some(free) = buffer[n..].get_mut(..ids.len()) else {
                    break;
                };
                for (place, &id) in free.iter_mut().zip(ids) {
                    *place = I::from_u32(id);
                }
                n += ids.len();
            }
            done += 1;
        }
        self.output.n = n;
        done
    }

    /// Write the ids of a pre-token that [`TextEncoder::emit_cached`] stopped at.
    #[cold]
    #[inline(never)]
    fn emit_one(
        &mut self,
        (key, home): (Key, HomeBucket),
        start: usize,
        end: usize,
    ) -> Result<(), Error> {
        let piece = &self.text[start..end];
        let cached = self.cache.table().get(key, home);
        let cached = cached.or_else(|| self.cache.promote(key, home));
        if let Some(packed) = cached {
            let (lanes, count) = I::unpack(packed);
            if let Some(ids) = lanes.get(..count) {
                return self.output.push(ids);
            }
            if !is_long(key) {
                return self.output.push_u32(self.cache.overflow::<I>(packed));
            }
            if let Some(ids) = self.cache.long_overflow::<I>(packed, piece) {
                return self.output.push_u32(ids);
            }
        }
        let ids = self.merger.merge(self.rules, piece)?;
        if piece.len() <= MAX_CACHED_BYTES && cached.is_none() {
            self.cache.insert::<I>(key, home, ids, piece);
        }
        self.output.push_u32(ids)
    }
}

/// Collects ids in a buffer before they are emitted.
struct Output<'a, I, F> {
    context: &'a Context,
    buffer: &'a mut [I],
    /// The number of ids in the buffer.
    n: usize,
    emit: F,
}

impl<I: Id, F: FnMut(&[I]) -> Result<(), Error>> Output<'_, I, F> {
    fn push(&mut self, ids: &[I]) -> Result<(), Error> {
        if self.n + ids.len() > self.buffer.len() {
            self.flush()?;
        }
        match self.buffer[self.n..].get_mut(..ids.len()) {
            Some(free) => {
                free.copy_from_slice(ids);
                self.n += ids.len();
                Ok(())
            }
            None => (self.emit)(ids),
        }
    }

    fn push_u32(&mut self, mut ids: &[u32]) -> Result<(), Error> {
        while !ids.is_empty() {
            if self.n == self.buffer.len() {
                self.flush()?;
            }
            let free = &mut self.buffer[self.n..];
            let (now, later) = ids.split_at(ids.len().min(free.len()));
            for (place, &id) in free.iter_mut().zip(now) {
                *place = I::from_u32(id);
            }
            self.n += now.len();
            ids = later;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Error> {
        self.context.check()?;
        (self.emit)(&self.buffer[..self.n])?;
        self.n = 0;
        Ok(())
    }
}
