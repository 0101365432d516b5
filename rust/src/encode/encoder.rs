//! The encoding of one text: look up each pre-token in the cache, and merge those that are not there.

use std::ops::Range;

use super::budget::Reservation;
use super::cache::{Cache, HomeBucket, MAX_CACHED_BYTES};
use super::merger::{Merger, Rules};
use super::packed_ids::{Id, LANES};
use super::words::{MAX_WORDS, Words};
use super::{Scratch, Tokenizer};
use crate::error::Error;
use crate::pretokenize::{BATCH_PIECES, OffsetVisitor, PieceBuffer, Visitor};
use crate::util::context::Context;
use crate::util::piece_key::{Key, MAX_SHORT, is_long, key_at, long_key};
use crate::vocab::borders::Borders;
use crate::vocab::first_symbols::FirstSymbols;
use crate::vocab::tokens::TokenIds;
use crate::vocab::wide_borders::WideBorders;

/// The size of the output buffer, in ids. The ids of [`BATCH_PIECES`] pre-tokens fill at most half of it.
pub(super) const BUFFER_IDS: usize = 2 * BATCH_PIECES * LANES;

/// The keys of short pre-tokens that are not in the cache, and where it will keep them.
pub(super) type Missed = Vec<(Key, HomeBucket)>;

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
    missed: &'a mut Missed,
    words: &'a mut Words,
    output: Output<'a, I, F>,
}

impl<I: Id, F: FnMut(&[I]) -> Result<(), Error>> Visitor for TextEncoder<'_, I, F> {
    #[inline(always)]
    fn pieces(&mut self, first_start: usize, ends: &[usize]) -> Result<(), Error> {
        let may_cut = self.look_up(first_start, ends)?;
        match self.tokenizer.vocab.wide_borders() {
            Some(borders) if may_cut => self.cut_further(borders, first_start, ends),
            _ => self.emit(first_start, ends),
        }
    }
}

/// Where the pre-tokens of a text are.
#[derive(Debug, Clone, Copy)]
pub(super) enum Pieces<'t> {
    /// Where the pattern cuts the text, which is this.
    OfText(&'t str),
    /// Where the pattern cuts the text, which may not be UTF-8.
    OfBytes,
    /// Each ends at one of these positions.
    At(&'t [usize]),
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
            missed,
            words,
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
            missed,
            words,
            output: Output {
                context,
                buffer: bytemuck::cast_slice_mut(buffer),
                n: 0,
                emit,
            },
        }
    }

    /// Encode the text.
    pub(super) fn run(mut self, pieces: Pieces) -> Result<(), Error> {
        let tokenizer = self.tokenizer;
        match tokenizer.vocab.borders() {
            None => split(tokenizer, self.text, pieces, &mut self)?,
            Some(borders) => {
                let bytes = self.text;
                let text = match pieces {
                    Pieces::OfText(text) => Some(text),
                    Pieces::OfBytes | Pieces::At(_) => None,
                };
                let mut cut_further = CutFurther {
                    encoder: &mut self,
                    borders,
                    text,
                };
                split(tokenizer, bytes, pieces, &mut cut_further)?;
            }
        }
        self.output.flush()
    }

    /// Compute the keys of pre-tokens and prefetch their buckets. Return whether some of them may be cut
    /// further.
    #[inline(always)]
    fn look_up(&mut self, first_start: usize, ends: &[usize]) -> Result<bool, Error> {
        self.output.context.check()?;
        if self.cache.is_full() {
            self.tokenizer.grow(self.cache, self.reservation);
        }
        if self.output.n > BUFFER_IDS / 2 {
            self.output.flush()?;
        }
        let (text, table) = (self.text, self.cache.table());
        let mut start = first_start;
        let mut may_cut = false;
        for (lookup, &end) in self.lookups.iter_mut().zip(ends) {
            let key = if end - start <= MAX_SHORT {
                key_at(text, start, end)
            } else {
                may_cut |= WideBorders::may_cut(&text[start..end]);
                key_of_long(&text[start..end])
            };
            *lookup = (key, table.prefetch(key));
            start = end;
        }
        Ok(may_cut)
    }

    /// Write the ids of pre-tokens that were looked up.
    #[inline(always)]
    fn emit(&mut self, first_start: usize, ends: &[usize]) -> Result<(), Error> {
        let mut done = 0;
        loop {
            done += self.emit_cached(done..ends.len());
            let Some(&end) = ends.get(done) else {
                return Ok(());
            };
            let start = done.checked_sub(1).map_or(first_start, |i| ends[i]);
            self.emit_one(done..ends.len(), start, end)?;
            done += 1;
        }
    }

    /// Cut long pre-tokens where no merge crosses, and write the ids of all parts.
    #[cold]
    #[inline(never)]
    fn cut_further(
        &mut self,
        borders: &WideBorders,
        start: usize,
        ends: &[usize],
    ) -> Result<(), Error> {
        let (text, whole) = (self.text, self.rules.whole);
        let mut parts = Parts(self);
        let mut shifted = OffsetVisitor {
            visitor: &mut parts,
            offset: start,
        };
        let mut pieces = PieceBuffer::new(&mut shifted);
        let mut begin = start;
        for &end in ends {
            let piece = &text[begin..end];
            let is_token = |tokens: &TokenIds| tokens.get(piece).is_some();
            if WideBorders::may_cut(piece) && !whole.is_some_and(is_token) {
                borders.visit(piece, |at| pieces.push(begin - start + at))?;
            } else {
                pieces.push(end - start)?;
            }
            begin = end;
        }
        pieces.flush()
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

    /// Put all short pre-tokens of `lookups` into the cache, if symbols are bytes: those that are a token
    /// as a whole with its id, and the others with the ids that they merge into.
    #[cold]
    #[inline(never)]
    fn learn(&mut self, lookups: Range<usize>) {
        let (Some(pairs), FirstSymbols::Bytes(of_byte)) = (&self.tokenizer.pairs, self.rules.first)
        else {
            return;
        };
        let vocab = &self.tokenizer.vocab;
        self.missed.clear();
        for &(key, home) in &self.lookups[lookups] {
            if self.cache.table().get(key, home).is_none() && !is_long(key) {
                vocab.prefetch_whole(key);
                self.missed.push((key, home));
            }
        }
        let cache = &mut *self.cache;
        self.missed.retain(|&(key, home)| {
            if cache.get(key, home).is_some() {
                return false;
            }
            match vocab.whole(key) {
                Some(id) => {
                    cache.insert::<I>(key, home, &[id], &[]);
                    false
                }
                None => true,
            }
        });
        for some in self.missed.chunks(MAX_WORDS) {
            let keys = some.iter().map(|&(key, _)| key);
            self.words
                .merge(self.rules, pairs, of_byte, keys, |i, ids| {
                    let (key, home) = some[i];
                    // The same pre-token may have been missed twice.
                    if cache.get(key, home).is_none() {
                        cache.insert::<I>(key, home, ids, &[]);
                    }
                });
        }
    }

    /// Write the ids of a pre-token that [`TextEncoder::emit_cached`] stopped at, the first of `lookups`.
    #[cold]
    #[inline(never)]
    fn emit_one(&mut self, lookups: Range<usize>, start: usize, end: usize) -> Result<(), Error> {
        let piece = &self.text[start..end];
        let (key, home) = self.lookups[lookups.start];
        let mut cached = self.cache.get(key, home);
        if cached.is_none() && !is_long(key) {
            self.learn(lookups);
            cached = self.cache.get(key, home);
        }
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
        let ids = self.merger.encode(self.rules, piece)?;
        if piece.len() <= MAX_CACHED_BYTES && cached.is_none() {
            self.cache.insert::<I>(key, home, ids, piece);
        }
        self.output.push_u32(ids)
    }
}

/// Encodes parts of pre-tokens, which are not cut further.
struct Parts<'e, 'a, I, F>(&'e mut TextEncoder<'a, I, F>);

impl<I: Id, F: FnMut(&[I]) -> Result<(), Error>> Visitor for Parts<'_, '_, I, F> {
    fn pieces(&mut self, start: usize, ends: &[usize]) -> Result<(), Error> {
        self.0.look_up(start, ends)?;
        self.0.emit(start, ends)
    }
}

/// The key of a pre-token of more than [`MAX_SHORT`] bytes.
#[inline(always)]
fn key_of_long(piece: &[u8]) -> Key {
    if piece.len() <= MAX_CACHED_BYTES {
        long_key(piece)
    } else {
        Key::MAX // equals no key in the table
    }
}

/// Pass the pre-tokens of a text to `visitor`.
fn split(
    tokenizer: &Tokenizer,
    bytes: &[u8],
    pieces: Pieces,
    visitor: &mut impl Visitor,
) -> Result<(), Error> {
    match pieces {
        Pieces::OfText(text) => tokenizer.pattern.visit(text, visitor),
        Pieces::OfBytes => tokenizer.pattern.visit_bytes(bytes, visitor),
        Pieces::At(ends) => {
            let mut start = 0;
            ends.chunks(BATCH_PIECES).try_for_each(|ends| {
                visitor.pieces(start, ends)?;
                start = ends[ends.len() - 1];
                Ok(())
            })
        }
    }
}

/// Cuts the pre-tokens of a text at borders that no merge crosses.
struct CutFurther<'e, 'a, I, F> {
    encoder: &'e mut TextEncoder<'a, I, F>,
    borders: &'a Borders,
    /// The whole text, if it is known to be UTF-8.
    text: Option<&'e str>,
}

impl<I: Id, F: FnMut(&[I]) -> Result<(), Error>> Visitor for CutFurther<'_, '_, I, F> {
    fn pieces(&mut self, start: usize, ends: &[usize]) -> Result<(), Error> {
        let bytes = self.encoder.text;
        let mut shifted = OffsetVisitor {
            visitor: self.encoder,
            offset: start,
        };
        let mut pieces = PieceBuffer::new(&mut shifted);
        let mut begin = start;
        for &end in ends {
            let piece = match self.text {
                Some(text) => Some(&text[begin..end]),
                None => std::str::from_utf8(&bytes[begin..end]).ok(),
            };
            match piece {
                Some(piece) => {
                    let push = |at, can_cut| pieces.push_if(can_cut, begin - start + at);
                    self.borders.visit(piece, push)?;
                }
                None => pieces.push(end - start)?, // a run of invalid bytes
            }
            begin = end;
        }
        pieces.flush()
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
