//! Encoding: text to ids, by BPE over each pre-token.
//!
//! The definition is short: cut the text by the pattern, and merge the bytes of each pre-token (see
//! [`crate::naive::encode`], and the module `merger` for the fast way). But most pre-tokens of a text
//! have been seen before; everything else here is about remembering their ids.

mod budget;
mod cache;
mod encoder;
mod linked_tokens;
pub(crate) mod merge_table;
pub(crate) mod merger;
mod packed_ids;
pub mod special;

use std::sync::{Arc, Mutex};
use std::thread;

use self::budget::{Budget, Reservation};
use self::cache::{Cache, HomeBucket, LARGEST_BYTES};
use self::encoder::{BUFFER_IDS, TextEncoder};
use self::merger::Merger;
use self::special::AddedTokens;
use crate::error::Error;
use crate::pretokenize::{BATCH_PIECES, Pattern};
use crate::util::context::Context;
use crate::util::memory::{trim_malloc, try_reserve};
use crate::util::piece_key::Key;
use crate::vocab::Vocab;

/// A vocabulary, a pattern, and memory that calls leave behind for later calls.
pub struct Tokenizer {
    vocab: Vocab,
    pattern: Pattern,
    /// Tokens that are found in any text, before it is cut by the pattern.
    added: Option<AddedTokens>,
    budget: Arc<Budget>,
    /// Scratch memory that no thread is using. Nobody waits for these locks: a locked slot is skipped.
    /// So a process that is forked while another thread holds a lock can't hang on it.
    idle: [Mutex<Option<Box<Scratch>>>; MAX_IDLE],
}

const MAX_IDLE: usize = 64;

/// The memory that one thread needs to encode.
struct Scratch {
    reservation: Reservation,
    cache: Cache,
    lookups: [(Key, HomeBucket); BATCH_PIECES],
    merger: Merger,
    buffer: [u32; BUFFER_IDS],
}

impl Scratch {
    fn new(budget: &Arc<Budget>) -> Result<Box<Self>, Error> {
        let cache = Cache::new()?;
        Ok(Box::new(Scratch {
            reservation: budget.reserve(cache.n_bytes()),
            cache,
            lookups: [Default::default(); BATCH_PIECES],
            merger: Merger::default(),
            buffer: [0; BUFFER_IDS],
        }))
    }
}

/// Takes the ids of a text, some at a time. An error, such as a lack of memory, ends the encoding.
pub trait Sink {
    /// Take the next ids, if every id of the vocabulary fits into 16 bits.
    fn narrow(&mut self, ids: &[u16]) -> Result<(), Error>;
    /// Take the next ids, if not.
    fn wide(&mut self, ids: &[u32]) -> Result<(), Error>;
}

impl Sink for Vec<u32> {
    fn narrow(&mut self, ids: &[u16]) -> Result<(), Error> {
        try_reserve(self, ids.len())?;
        self.extend(ids.iter().map(|&id| u32::from(id)));
        Ok(())
    }

    fn wide(&mut self, ids: &[u32]) -> Result<(), Error> {
        try_reserve(self, ids.len())?;
        self.extend_from_slice(ids);
        Ok(())
    }
}

impl Tokenizer {
    /// Combine a vocabulary and a pattern.
    pub fn new(vocab: Vocab, pattern: Pattern) -> Self {
        // More threads than cores are no faster, so there are as many caches of the largest size.
        let n_cores = thread::available_parallelism().map_or(2, |n| n.get().max(2));
        Tokenizer {
            vocab,
            pattern,
            added: None,
            budget: Budget::new(n_cores * LARGEST_BYTES),
            idle: std::array::from_fn(|_| Mutex::new(None)),
        }
    }

    /// Add tokens that are found in any text: from left to right, and the longest where two begin at the
    /// same place. The text between them is encoded as separate texts.
    ///
    /// # Errors
    /// Fails if a name is empty or given twice, or an id is given twice or too large.
    pub fn with_added_tokens(mut self, tokens: &[(String, u32)]) -> Result<Self, Error> {
        self.vocab.add_tokens(tokens)?;
        self.added = (!tokens.is_empty())
            .then(|| AddedTokens::new(tokens))
            .transpose()?;
        Ok(self)
    }

    /// The tokens and their ids.
    pub fn vocab(&self) -> &Vocab {
        &self.vocab
    }

    /// The split pattern.
    pub fn pattern(&self) -> &Pattern {
        &self.pattern
    }

    /// Return the ids of `text`. Special tokens in it are encoded as ordinary text.
    ///
    /// # Errors
    /// Fails if a regular expression gives up, or if there is not enough memory.
    pub fn encode_ordinary(&self, text: &str) -> Result<Vec<u32>, Error> {
        let mut ids = Vec::new();
        self.encode_to(&Context::default(), text, &mut ids)?;
        Ok(ids)
    }

    /// Pass the ids of `text` to `sink`, some at a time. Special tokens are encoded as ordinary text.
    ///
    /// # Errors
    /// Fails if a regular expression gives up, if there is not enough memory, if `sink` fails, or if
    /// `context` is stopped.
    pub fn encode_to(
        &self,
        context: &Context,
        text: &str,
        sink: &mut impl Sink,
    ) -> Result<(), Error> {
        self.encode(context, text.as_bytes(), Some(text), sink)
    }

    /// [`Tokenizer::encode_to`] for bytes that need not be UTF-8. Each longest stretch of valid UTF-8 is
    /// encoded as a separate text, and each run of invalid bytes is one pre-token.
    ///
    /// # Errors
    /// As [`Tokenizer::encode_to`].
    pub fn encode_bytes_to(
        &self,
        context: &Context,
        bytes: &[u8],
        sink: &mut impl Sink,
    ) -> Result<(), Error> {
        self.encode(context, bytes, std::str::from_utf8(bytes).ok(), sink)
    }

    /// Return the last position in `data` where a text that contains `data` may be cut; 0 if there is none.
    pub fn safe_cut(&self, data: &[u8]) -> usize {
        let mut cut = self.pattern.safe_cut(data);
        if let Some(added) = &self.added {
            while cut > 0 && !added.are_far_from(data, cut) {
                cut = self.pattern.safe_cut(&data[..cut]);
            }
        }
        cut
    }

    /// Call `visit` for each pre-token and each added token of `text`. Concatenated, they are `text`.
    ///
    /// # Errors
    /// Fails if a regular expression gives up, or if `visit` fails.
    pub fn split<'t>(
        &self,
        text: &'t str,
        mut visit: impl FnMut(&'t str) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut start = 0;
        let added = self.added.iter();
        for (found, _) in added.flat_map(|added| added.finder.find(text.as_bytes())) {
            self.pattern.split(&text[start..found.start], &mut visit)?;
            visit(&text[found.clone()])?;
            start = found.end;
        }
        self.pattern.split(&text[start..], visit)
    }

    /// Encode `bytes`; `text` is the same if they are UTF-8.
    fn encode(
        &self,
        context: &Context,
        bytes: &[u8],
        text: Option<&str>,
        sink: &mut impl Sink,
    ) -> Result<(), Error> {
        let mut scratch = self.take_scratch()?;
        let done = match &self.added {
            None => self.encode_between(context, &mut scratch, bytes, text, sink),
            Some(added) => self.encode_around(added, context, &mut scratch, bytes, sink),
        };
        scratch.merger.shrink();
        self.return_scratch(scratch);
        done
    }

    /// Encode `bytes` that may contain added tokens. A name is UTF-8, so where `bytes` are not, it is still
    /// within one of their longest stretches of UTF-8.
    fn encode_around(
        &self,
        added: &AddedTokens,
        context: &Context,
        scratch: &mut Scratch,
        bytes: &[u8],
        sink: &mut impl Sink,
    ) -> Result<(), Error> {
        let mut between = |bytes: &[u8], sink: &mut _| {
            let text = std::str::from_utf8(bytes).ok();
            self.encode_between(context, scratch, bytes, text, sink)
        };
        let mut start = 0;
        for (found, id) in added.finder.find(bytes) {
            if start < found.start {
                between(&bytes[start..found.start], sink)?;
            }
            match u16::try_from(id) {
                Ok(id) if self.vocab.fits_16_bits() => sink.narrow(&[id])?,
                _ => sink.wide(&[id])?,
            }
            context.check()?;
            start = found.end;
        }
        between(&bytes[start..], sink)
    }

    /// Encode `bytes` without added tokens; `text` is the same if they are UTF-8.
    fn encode_between(
        &self,
        context: &Context,
        scratch: &mut Scratch,
        bytes: &[u8],
        text: Option<&str>,
        sink: &mut impl Sink,
    ) -> Result<(), Error> {
        if self.vocab.fits_16_bits() {
            let emit = |ids: &[u16]| sink.narrow(ids);
            TextEncoder::new(context, self, scratch, bytes, emit).run(text)
        } else {
            let emit = |ids: &[u32]| sink.wide(ids);
            TextEncoder::new(context, self, scratch, bytes, emit).run(text)
        }
    }

    fn take_scratch(&self) -> Result<Box<Scratch>, Error> {
        let idle = self
            .idle
            .iter()
            .find_map(|slot| slot.try_lock().ok()?.take());
        idle.map_or_else(|| Scratch::new(&self.budget), Ok)
    }

    /// Keep the memory for the next call, unless its cache could not grow.
    fn return_scratch(&self, scratch: Box<Scratch>) {
        if scratch.cache.is_small() {
            return;
        }
        let mut unlocked = self.idle.iter().filter_map(|slot| slot.try_lock().ok());
        if let Some(mut slot) = unlocked.find(|slot| slot.is_none()) {
            *slot = Some(scratch);
        }
    }

    /// Make a full cache larger, if the budget allows it.
    #[cold]
    fn grow(&self, cache: &mut Cache, reservation: &mut Reservation) {
        if !reservation.grow_to(cache.larger_bytes()) {
            self.drop_idle();
            if !reservation.grow_to(cache.larger_bytes()) {
                return cache.stay_small();
            }
        }
        cache.grow();
    }

    /// Free the memory that calls have left behind for later calls, which have to fill it again.
    pub fn release_memory(&self) {
        self.drop_idle();
        trim_malloc();
    }

    fn drop_idle(&self) {
        for slot in &self.idle {
            if let Ok(mut slot) = slot.try_lock() {
                *slot = None;
            }
        }
    }
}

#[cfg(test)]
mod tests;
