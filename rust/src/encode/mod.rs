//! Text to ids: BPE over each pre-token, most of which were seen before.
//!
//! The definition is short: cut the text by the pattern, and let [`Merger`] merge the bytes of each
//! pre-token. All else here is about not doing that twice for the same pre-token: see [`Cache`].

mod cache;
pub mod merge_table;
pub mod merger;
pub mod special;

use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;

use crate::encode::cache::{Cache, Id, LANES, MAX_LONG, Place};
use crate::encode::merger::Merger;
use crate::error::Error;
use crate::pretokenize::{BATCH, Pattern, Visitor};
use crate::util::interrupt::check;
use crate::util::key::{Key, MAX_SHORT, is_long, key_at, long_key};
use crate::util::memory::reserve;
use crate::vocab::Vocab;

/// A vocabulary, a pattern, and what earlier calls left behind for later ones.
pub struct Tokenizer {
    vocab: Vocab,
    pattern: Pattern,
    /// One for each thread that is not encoding just now. Nobody ever waits for one of these locks:
    /// a slot that is locked is passed over. So a process forked while another thread held a lock
    /// can't hang on it.
    idle: [Mutex<Option<Box<Scratch>>>; MAX_IDLE],
}

const MAX_IDLE: usize = 64;

/// Room for ids until they are handed on. [`BATCH`] pre-tokens fill at most half of it.
const BUFFER_IDS: usize = 2 * BATCH * LANES;

/// What a thread needs to encode.
struct Scratch {
    cache: Cache,
    asked: [(Key, Place); BATCH],
    merger: Merger,
    buffer: [u32; BUFFER_IDS],
}

impl Scratch {
    fn new() -> Result<Box<Self>, Error> {
        Ok(Box::new(Scratch {
            cache: Cache::new()?,
            asked: [Default::default(); BATCH],
            merger: Merger::default(),
            buffer: [0; BUFFER_IDS],
        }))
    }
}

/// Takes the ids of a text, some at a time. An error, for want of memory, ends the encoding.
pub trait Sink {
    /// Take some ids of a vocabulary whose ids fit 16 bits.
    fn narrow(&mut self, ids: &[u16]) -> Result<(), Error>;
    /// Take some ids of another vocabulary.
    fn wide(&mut self, ids: &[u32]) -> Result<(), Error>;
}

impl Sink for Vec<u32> {
    fn narrow(&mut self, ids: &[u16]) -> Result<(), Error> {
        reserve(self, ids.len())?;
        self.extend(ids.iter().map(|&id| u32::from(id)));
        Ok(())
    }

    fn wide(&mut self, ids: &[u32]) -> Result<(), Error> {
        reserve(self, ids.len())?;
        self.extend_from_slice(ids);
        Ok(())
    }
}

impl Tokenizer {
    /// Put a vocabulary and a pattern together.
    pub fn new(vocab: Vocab, pattern: Pattern) -> Self {
        Tokenizer {
            vocab,
            pattern,
            idle: std::array::from_fn(|_| Mutex::new(None)),
        }
    }

    /// The tokens and their ids.
    pub fn vocab(&self) -> &Vocab {
        &self.vocab
    }

    /// How text is cut.
    pub fn pattern(&self) -> &Pattern {
        &self.pattern
    }

    /// The ids of `text`. Text that spells a special token is ordinary text here.
    pub fn encode_ordinary(&self, text: &str) -> Result<Vec<u32>, Error> {
        let mut ids = Vec::new();
        self.encode_to(text, &AtomicBool::new(false), &mut ids)?;
        Ok(ids)
    }

    /// Hand the ids of `text` to `sink`, some at a time.
    ///
    /// Fails if a regular expression gives up, or soon after `stop` has become
    /// true.
    pub fn encode_to(
        &self,
        text: &str,
        stop: &AtomicBool,
        sink: &mut impl Sink,
    ) -> Result<(), Error> {
        self.encode(text.as_bytes(), Some(text), stop, sink)
    }

    /// [`Tokenizer::encode_to`] for bytes that need not be UTF-8: each longest stretch that is, is
    /// encoded as a text of its own, and each run of other bytes is one pre-token.
    pub fn encode_bytes_to(
        &self,
        bytes: &[u8],
        stop: &AtomicBool,
        sink: &mut impl Sink,
    ) -> Result<(), Error> {
        self.encode(bytes, std::str::from_utf8(bytes).ok(), stop, sink)
    }

    /// `text` is `bytes` if these are UTF-8.
    fn encode(
        &self,
        bytes: &[u8],
        text: Option<&str>,
        stop: &AtomicBool,
        sink: &mut impl Sink,
    ) -> Result<(), Error> {
        let mut scratch = self.take_scratch()?;
        let done = if self.vocab.fits_16_bits() {
            let hand_on = |ids: &[u16]| sink.narrow(ids);
            Encoding::new(self, &mut scratch, bytes, stop, hand_on).run(text)
        } else {
            let hand_on = |ids: &[u32]| sink.wide(ids);
            Encoding::new(self, &mut scratch, bytes, stop, hand_on).run(text)
        };
        scratch.merger.shrink();
        self.put_back(scratch);
        done
    }

    fn take_scratch(&self) -> Result<Box<Scratch>, Error> {
        let idle = self
            .idle
            .iter()
            .find_map(|slot| slot.try_lock().ok()?.take());
        idle.map_or_else(Scratch::new, Ok)
    }

    fn put_back(&self, scratch: Box<Scratch>) {
        let mut unlocked = self.idle.iter().filter_map(|slot| slot.try_lock().ok());
        if let Some(mut slot) = unlocked.find(|slot| slot.is_none()) {
            *slot = Some(scratch);
        }
    }
}

/// One text on its way to ids.
struct Encoding<'a, I, S> {
    vocab: &'a Vocab,
    pattern: &'a Pattern,
    text: &'a [u8],
    cache: &'a mut Cache,
    asked: &'a mut [(Key, Place); BATCH],
    merger: &'a mut Merger,
    output: Output<'a, I, S>,
}

impl<I: Id, S: FnMut(&[I]) -> Result<(), Error>> Visitor for Encoding<'_, I, S> {
    #[inline(always)]
    fn pieces(&mut self, first_start: usize, ends: &[usize]) -> Result<(), Error> {
        check(self.output.stop)?;
        self.cache.make_room();
        if self.output.n > BUFFER_IDS / 2 {
            self.output.flush()?;
        }
        let (text, table) = (self.text, self.cache.table());
        let mut start = first_start;
        for (asked, &end) in self.asked.iter_mut().zip(ends) {
            let key = if end - start <= MAX_SHORT {
                key_at(text, start, end)
            } else if end - start <= MAX_LONG {
                long_key(&text[start..end])
            } else {
                Key::MAX // nothing has it
            };
            *asked = (key, table.prefetch(key));
            start = end;
        }
        let mut done = 0;
        loop {
            done += self.emit_found(done..ends.len());
            let Some(&end) = ends.get(done) else {
                return Ok(());
            };
            let start = done.checked_sub(1).map_or(first_start, |i| ends[i]);
            self.emit_one(self.asked[done], start, end)?;
            done += 1;
        }
    }
}

impl<'a, I: Id, S: FnMut(&[I]) -> Result<(), Error>> Encoding<'a, I, S> {
    fn new(
        tokenizer: &'a Tokenizer,
        scratch: &'a mut Scratch,
        text: &'a [u8],
        stop: &'a AtomicBool,
        sink: S,
    ) -> Self {
        let Scratch {
            cache,
            asked,
            merger,
            buffer,
        } = scratch;
        Encoding {
            vocab: &tokenizer.vocab,
            pattern: &tokenizer.pattern,
            text,
            cache,
            asked,
            merger,
            output: Output {
                buffer: bytemuck::cast_slice_mut(buffer),
                n: 0,
                stop,
                sink,
            },
        }
    }

    fn run(mut self, text: Option<&str>) -> Result<(), Error> {
        match text {
            Some(text) => self.pattern.visit(text, &mut self)?,
            None => self.pattern.visit_bytes(self.text, &mut self)?,
        }
        self.output.flush()
    }

    /// Write the ids of pre-tokens until one needs more care; returns how many pre-tokens it was.
    #[inline(always)]
    fn emit_found(&mut self, asked: Range<usize>) -> usize {
        let (cache, buffer) = (&*self.cache, &mut *self.output.buffer);
        let table = cache.table();
        let mut n = self.output.n;
        let mut done = 0;
        for &(key, place) in &self.asked[asked] {
            let places = buffer[n..].first_chunk_mut::<LANES>();
            let (Some(ids), Some(places)) = (table.get(key, place), places) else {
                break;
            };
            let count;
            (*places, count) = I::unpack(ids);
            if count <= LANES {
                n += count;
            } else if is_long(key) {
                break;
            } else {
                let ids = cache.elsewhere::<I>(ids);
                let Some(places) = buffer[n..].get_mut(..ids.len()) else {
                    break;
                };
                for (place, &id) in places.iter_mut().zip(ids) {
                    *place = I::from_u32(id);
                }
                n += ids.len();
            }
            done += 1;
        }
        self.output.n = n;
        done
    }

    /// A pre-token that is not where the cache is looked at first, or for which the buffer has no room.
    #[cold]
    #[inline(never)]
    fn emit_one(
        &mut self,
        (key, place): (Key, Place),
        start: usize,
        end: usize,
    ) -> Result<(), Error> {
        let piece = &self.text[start..end];
        let known = self.cache.table().get(key, place);
        let known = known.or_else(|| self.cache.take_back(key, place));
        if let Some(ids) = known {
            let (lanes, count) = I::unpack(ids);
            if let Some(ids) = lanes.get(..count) {
                return self.output.emit(ids);
            }
            if !is_long(key) {
                return self.output.emit_u32(self.cache.elsewhere::<I>(ids));
            }
            if let Some(ids) = self.cache.elsewhere_of_long::<I>(ids, piece) {
                return self.output.emit_u32(ids);
            }
        }
        let (merges, byte_ids) = (self.vocab.merges(), self.vocab.byte_ids());
        let ids = self
            .merger
            .merge(merges, byte_ids, piece, self.output.stop)?;
        if piece.len() <= MAX_LONG && known.is_none() {
            self.cache.insert::<I>(key, place, ids, piece);
        }
        self.output.emit_u32(ids)
    }
}

/// Where the ids go: some of them are gathered before they are handed on.
struct Output<'a, I, S> {
    buffer: &'a mut [I],
    /// How many ids wait in the buffer.
    n: usize,
    stop: &'a AtomicBool,
    sink: S,
}

impl<I: Id, S: FnMut(&[I]) -> Result<(), Error>> Output<'_, I, S> {
    fn emit(&mut self, ids: &[I]) -> Result<(), Error> {
        if self.n + ids.len() > self.buffer.len() {
            self.flush()?;
        }
        match self.buffer[self.n..].get_mut(..ids.len()) {
            Some(places) => {
                places.copy_from_slice(ids);
                self.n += ids.len();
                Ok(())
            }
            None => (self.sink)(ids),
        }
    }

    fn emit_u32(&mut self, mut ids: &[u32]) -> Result<(), Error> {
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
        check(self.stop)?;
        (self.sink)(&self.buffer[..self.n])?;
        self.n = 0;
        Ok(())
    }
}
