//! Text to ids: BPE over each pre-token, most of which were seen before.
//!
//! The definition is short: cut the text by the pattern, and let [`Merger`] merge the bytes of each
//! pre-token. All else here is about not doing that twice for the same pre-token: see [`Cache`].

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;

use crate::cache::{Cache, LANES, Packing, Place};
use crate::error::Error;
use crate::key::{Key, MAX_SHORT, key_at};
use crate::merge::Merger;
use crate::pretokenize::{Pattern, Visitor};
use crate::stop::check;
use crate::vocab::Vocab;

/// A vocabulary, a pattern, and what earlier calls left behind for later ones.
pub struct Tokenizer {
    vocab: Vocab,
    pattern: Pattern,
    packing: Packing,
    /// One for each thread that is not encoding just now. Nobody ever waits for one of these locks:
    /// a slot that is locked is passed over. So a process forked while another thread held a lock
    /// can't hang on it.
    idle: [Mutex<Option<Box<Scratch>>>; MAX_IDLE],
}

const MAX_IDLE: usize = 64;

/// Entries of a thread's cache: 32 MB if all are used. On 106 MB of English text 2^20 of them hold
/// all but 1% of the pre-tokens met.
const LOG2_CACHE_ENTRIES: u32 = 20;

/// Ids that are handed on at a time.
const BUFFER_IDS: usize = 4096;

/// Pre-tokens that no [`Cache`] entry can hold are remembered up to this number of bytes, and at most
/// so many of them; then all of these are forgotten.
const MAX_LONG: usize = 256;
const MAX_LONG_ENTRIES: usize = 1 << 14;

/// What a thread needs to encode.
struct Scratch {
    cache: Cache,
    long: HashMap<Box<[u8]>, Box<[u32]>>,
    merger: Merger,
    buffer: Vec<u32>,
}

impl Scratch {
    fn new(packing: Packing) -> Self {
        Scratch {
            cache: Cache::new(LOG2_CACHE_ENTRIES, packing),
            long: HashMap::new(),
            merger: Merger::default(),
            buffer: vec![0; BUFFER_IDS],
        }
    }
}

impl Tokenizer {
    /// Put a vocabulary and a pattern together.
    pub fn new(vocab: Vocab, pattern: Pattern) -> Self {
        Tokenizer {
            packing: Packing::for_vocabulary(&vocab),
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
        self.encode_to(text, &AtomicBool::new(false), |some| {
            ids.extend_from_slice(some)
        })?;
        Ok(ids)
    }

    /// Hand the ids of `text` to `sink`, some at a time.
    ///
    /// Fails if a regular expression exceeds its backtracking limit, or soon after `stop` has become
    /// true.
    pub fn encode_to(
        &self,
        text: &str,
        stop: &AtomicBool,
        sink: impl FnMut(&[u32]),
    ) -> Result<(), Error> {
        self.with_scratch(|scratch| {
            let mut encoding = Encoding::new(self, scratch, text.as_bytes(), stop, sink);
            self.pattern.visit(text, &mut encoding)?;
            encoding.finish()
        })
    }

    /// [`Tokenizer::encode_to`] for bytes that need not be UTF-8: each longest stretch that is, is
    /// encoded as a text of its own, and each run of other bytes is one pre-token.
    pub fn encode_bytes_to(
        &self,
        bytes: &[u8],
        stop: &AtomicBool,
        sink: impl FnMut(&[u32]),
    ) -> Result<(), Error> {
        if let Ok(text) = std::str::from_utf8(bytes) {
            return self.encode_to(text, stop, sink);
        }
        self.with_scratch(|scratch| {
            let mut encoding = Encoding::new(self, scratch, bytes, stop, sink);
            self.pattern.visit_bytes(bytes, &mut encoding)?;
            encoding.finish()
        })
    }

    fn with_scratch<R>(&self, work: impl FnOnce(&mut Scratch) -> R) -> R {
        let mut scratch = self.take_scratch();
        let result = work(&mut scratch);
        self.put_back(scratch);
        result
    }

    fn take_scratch(&self) -> Box<Scratch> {
        let idle = self
            .idle
            .iter()
            .find_map(|slot| slot.try_lock().ok()?.take());
        idle.unwrap_or_else(|| Box::new(Scratch::new(self.packing)))
    }

    fn put_back(&self, scratch: Box<Scratch>) {
        let mut unlocked = self.idle.iter().filter_map(|slot| slot.try_lock().ok());
        if let Some(mut slot) = unlocked.find(|slot| slot.is_none()) {
            *slot = Some(scratch);
        }
    }
}

/// One text on its way to ids.
///
/// What takes time is waiting for memory: the entries of the cache lie all over it. So a pre-token
/// is not looked up at once. Its place is asked for, and [`BATCH`] pre-tokens later, when the memory
/// has answered, it is looked at.
struct Encoding<'a, S> {
    vocab: &'a Vocab,
    packing: Packing,
    text: &'a [u8],
    cache: &'a mut Cache,
    long: &'a mut HashMap<Box<[u8]>, Box<[u32]>>,
    merger: &'a mut Merger,
    pending: [Pending; BATCH],
    n_pending: usize,
    output: Output<'a, S>,
}

/// Pre-tokens that are looked up together.
const BATCH: usize = 64;

/// A pre-token that waits to be looked up.
#[derive(Clone, Copy, Default)]
struct Pending {
    key: Key,
    place: Place,
    start: usize,
    end: usize,
}

impl<S: FnMut(&[u32])> Visitor for Encoding<'_, S> {
    #[inline(always)]
    fn piece(&mut self, start: usize, end: usize) -> Result<(), Error> {
        let key = key_at(self.text, start, end);
        let place = self.cache.prefetch(key);
        self.pending[self.n_pending] = Pending {
            key,
            place,
            start,
            end,
        };
        self.n_pending += 1;
        if self.n_pending == BATCH {
            self.look_up_pending()?;
        }
        Ok(())
    }
}

impl<'a, S: FnMut(&[u32])> Encoding<'a, S> {
    fn new(
        tokenizer: &'a Tokenizer,
        scratch: &'a mut Scratch,
        text: &'a [u8],
        stop: &'a AtomicBool,
        sink: S,
    ) -> Self {
        let Scratch {
            cache,
            long,
            merger,
            buffer,
        } = scratch;
        let output = Output {
            buffer,
            n: 0,
            stop,
            sink,
        };
        let pending = [Pending::default(); BATCH];
        Encoding {
            vocab: &tokenizer.vocab,
            packing: tokenizer.packing,
            text,
            cache,
            long,
            merger,
            pending,
            n_pending: 0,
            output,
        }
    }

    #[inline(never)]
    fn look_up_pending(&mut self) -> Result<(), Error> {
        for i in 0..self.n_pending {
            let pending = self.pending[i];
            let known = self.cache.get(pending.key, pending.place);
            match (known, self.output.buffer[self.output.n..].first_chunk_mut()) {
                // All places are written, whatever the number of ids: that takes no branch.
                (Some(ids), Some(places)) => {
                    let count;
                    (*places, count) = self.packing.unpack(ids);
                    self.output.n += count;
                }
                _ => self.new_piece(pending)?,
            }
        }
        self.n_pending = 0;
        Ok(())
    }

    /// A pre-token that isn't in the cache, or for which the buffer has no room.
    #[cold]
    #[inline(never)]
    fn new_piece(&mut self, pending: Pending) -> Result<(), Error> {
        let Pending {
            key,
            place,
            start,
            end,
        } = pending;
        let piece = &self.text[start..end];
        if let Some(ids) = self.cache.take_back(key, place) {
            let (ids, count) = self.packing.unpack(ids);
            return self.output.emit(&ids[..count]);
        }
        // A vocabulary whose every token is what BPE makes of that token's own bytes (`Vocab::new`
        // refuses any other) gives the same id here as the merges would, only faster.
        if let Some(id) = self.vocab.id_of(piece) {
            if piece.len() <= MAX_SHORT {
                self.cache.insert(key, place, &[id]);
            }
            return self.output.emit(&[id]);
        }
        if let Some(ids) = self.long.get(piece) {
            return self.output.emit(ids);
        }
        let byte_ids = self.vocab.byte_ids();
        let single = piece.iter().map(|&byte| byte_ids[usize::from(byte)]);
        let ids = self
            .merger
            .merge(self.vocab.merges(), single, self.output.stop)?;
        if piece.len() <= MAX_SHORT && ids.len() <= self.packing.max_ids() {
            self.cache.insert(key, place, ids);
        } else if piece.len() <= MAX_LONG {
            if self.long.len() == MAX_LONG_ENTRIES {
                self.long.clear();
            }
            self.long.insert(piece.into(), ids.into());
        }
        self.output.emit(ids)
    }

    fn finish(mut self) -> Result<(), Error> {
        self.look_up_pending()?;
        self.output.flush()
    }
}

/// Where the ids go: some of them are gathered before they are handed on.
struct Output<'a, S> {
    buffer: &'a mut [u32],
    /// How many ids wait in the buffer.
    n: usize,
    stop: &'a AtomicBool,
    sink: S,
}

impl<S: FnMut(&[u32])> Output<'_, S> {
    fn emit(&mut self, ids: &[u32]) -> Result<(), Error> {
        // LANES places stay free, or every further pre-token would come this way.
        if self.n + ids.len() + LANES > self.buffer.len() {
            self.flush()?;
        }
        match self.buffer[self.n..].get_mut(..ids.len()) {
            Some(places) => {
                places.copy_from_slice(ids);
                self.n += ids.len();
            }
            None => (self.sink)(ids),
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Error> {
        check(self.stop)?;
        (self.sink)(&self.buffer[..self.n]);
        self.n = 0;
        Ok(())
    }
}
