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
mod pair_table;
pub mod special;
mod words;

use std::borrow::Cow;
use std::iter::repeat_n;
use std::sync::{Arc, Mutex};
use std::thread;

use self::budget::{Budget, Reservation};
use self::cache::{Cache, HomeBucket, LARGEST_BYTES};
use self::encoder::{BUFFER_IDS, Missed, Pieces, TextEncoder};
use self::merger::Merger;
use self::pair_table::PairTable;
use self::special::{AddedToken, TokenFinder, each_stretch};
use self::words::Words;
use crate::error::Error;
use crate::normalize::{Aligned, Normalizer};
use crate::pretokenize::{BATCH_PIECES, Pattern, stretches};
use crate::util::context::Context;
use crate::util::memory::{trim_malloc, try_reserve};
use crate::util::piece_key::Key;
use crate::vocab::Vocab;
use crate::vocab::first_symbols::FirstSymbols;

/// A vocabulary, a pattern, and memory that calls leave behind for later calls.
pub struct Tokenizer {
    vocab: Vocab,
    /// The merges once more, if merging begins with bytes.
    pairs: Option<PairTable>,
    pattern: Pattern,
    /// Changes each text before it is cut by the pattern.
    normalizer: Option<Normalizer>,
    added_tokens: Vec<AddedToken>,
    /// Finds the tokens that any text may contain, before it is cut by the pattern.
    finder: Option<TokenFinder>,
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
    missed: Missed,
    words: Words,
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
            missed: Vec::with_capacity(BATCH_PIECES),
            words: Words::default(),
            buffer: [0; BUFFER_IDS],
        }))
    }
}

/// The start and the end of a part of a text, in bytes.
pub type Span = (usize, usize);

/// A part of a text.
enum Part<'t> {
    /// An added token and its id.
    Token(&'t str, u32),
    /// Text between tokens, normalized, which begins the whole text or not.
    Text { text: &'t str, is_first: bool },
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
        let context = Context::default();
        let rules = vocab.rules(&context);
        let pairs = matches!(rules.first, FirstSymbols::Bytes(_))
            .then(|| PairTable::new(&rules.merges.iter().collect::<Vec<_>>()));
        Tokenizer {
            pairs,
            vocab,
            pattern,
            normalizer: None,
            added_tokens: Vec::new(),
            finder: None,
            budget: Budget::new(n_cores * LARGEST_BYTES),
            idle: std::array::from_fn(|_| Mutex::new(None)),
        }
    }

    /// Change each text before it is cut, except its tokens that are not normalized. Call this before
    /// [`Tokenizer::with_added_tokens`].
    ///
    /// # Errors
    /// Fails if the pattern depends on what begins the text: the normalizer may change that.
    pub fn with_normalizer(mut self, normalizer: Normalizer) -> Result<Self, Error> {
        if self.pattern.depends_on_start() {
            return Err(Error::Pattern(
                "the pre_tokenizer has a Metaspace with the scheme first, and there is a normalizer: \
                 expected the scheme always or never, or no normalizer"
                    .into(),
            ));
        }
        self.normalizer = Some(normalizer);
        Ok(self)
    }

    /// Add tokens that are found in text: from left to right, and the longest where two begin at the same
    /// place. The text between them is encoded as separate texts. Those that aren't special may be in any
    /// text; the special ones are those of the vocabulary.
    ///
    /// # Errors
    /// Fails if a name is empty or given twice, or an id is given twice or too large.
    pub fn with_added_tokens(mut self, tokens: &[AddedToken]) -> Result<Self, Error> {
        let ordinary = tokens.iter().filter(|token| !token.special);
        let ordinary: Vec<_> = ordinary
            .map(|token| (token.name.clone(), token.id))
            .collect();
        self.vocab.add_tokens(&ordinary)?;
        self.added_tokens = tokens.to_vec();
        // `tokenizers` finds special tokens even if it leaves them in the text.
        let all = self.added_tokens.iter().map(|token| (token, token.special));
        self.finder = TokenFinder::new(all, self.normalizer.as_ref())?;
        Ok(self)
    }

    /// Return what finds the tokens that any text may contain and the special ones that are allowed.
    ///
    /// # Errors
    /// As [`TokenFinder::new`].
    pub fn finder_of(
        &self,
        is_allowed: impl Fn(&str) -> bool,
    ) -> Result<Option<TokenFinder>, Error> {
        let found = self.added_tokens.iter();
        let found = found.filter(|token| !token.special || is_allowed(&token.name));
        TokenFinder::new(found.map(|token| (token, false)), self.normalizer.as_ref())
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
        self.encode(
            context,
            text.as_bytes(),
            Some(text),
            self.finder.as_ref(),
            sink,
        )
    }

    /// [`Tokenizer::encode_to`] with the tokens that `finder` finds.
    ///
    /// # Errors
    /// As [`Tokenizer::encode_to`].
    pub fn encode_with(
        &self,
        finder: Option<&TokenFinder>,
        context: &Context,
        text: &str,
        sink: &mut impl Sink,
    ) -> Result<(), Error> {
        self.encode(context, text.as_bytes(), Some(text), finder, sink)
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
        let text = std::str::from_utf8(bytes).ok();
        self.encode(context, bytes, text, self.finder.as_ref(), sink)
    }

    /// Return the last position in `data` where a text that contains `data` may be cut; 0 if there is none.
    pub fn safe_cut(&self, data: &[u8]) -> usize {
        let is_safe = |cut: usize| {
            let is_far = |finder: &TokenFinder| finder.is_far_from(data, cut);
            self.finder.as_ref().is_none_or(is_far) && self.is_kept_around(data, cut)
        };
        let mut cut = self.pattern.safe_cut(data);
        while cut > 0 && !is_safe(cut) {
            cut = self.pattern.safe_cut(&data[..cut]);
        }
        cut
    }

    /// Whether the normalizer keeps each character that the pattern or a token looks at beside the cut,
    /// whatever the text around them.
    fn is_kept_around(&self, data: &[u8], cut: usize) -> bool {
        let Some(normalizer) = &self.normalizer else {
            return true;
        };
        let longest = self
            .finder
            .as_ref()
            .map_or(0, TokenFinder::longest_normalized);
        let reach = longest + special::LOOKED_AT + 4;
        let (left, right) = data.split_at(cut);
        let left = left[left.len().saturating_sub(reach)..]
            .utf8_chunks()
            .last();
        let right = right[..right.len().min(reach + 4)].utf8_chunks().next();
        let (left, right) = [left, right]
            .map(|chunk| chunk.map_or("", |chunk| chunk.valid()))
            .into();
        // The last character may yet change with those after it.
        right.len() >= reach
            && left
                .chars()
                .chain(right.chars())
                .all(|c| normalizer.keeps(c))
    }

    /// Call `visit` for each pre-token and each added token of `text`. Concatenated, they are `text`, as far
    /// as the normalizer and the pattern don't change it.
    ///
    /// # Errors
    /// Fails if a regular expression gives up, or if `visit` fails.
    pub fn split(
        &self,
        text: &str,
        mut visit: impl FnMut(&str) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.each_part(self.finder.as_ref(), text, |part| match part {
            Part::Token(name, _) => visit(name),
            Part::Text { text, is_first } => {
                match self.pattern.rewrite(|| text.to_owned(), is_first)? {
                    None => self.pattern.split(text, &mut visit),
                    Some(rewritten) => {
                        let mut start = 0;
                        rewritten.ends.iter().try_for_each(|&end| {
                            let piece = &rewritten.text[start..end];
                            start = end;
                            visit(piece)
                        })
                    }
                }
            }
        })
    }

    /// Call `visit` for each token that `finder` finds, and the text between them, normalized.
    fn each_part(
        &self,
        finder: Option<&TokenFinder>,
        text: &str,
        mut visit: impl FnMut(Part) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let raw = finder.and_then(|finder| finder.raw.as_ref());
        let in_normalized = finder.and_then(|finder| finder.normalized.as_ref());
        each_stretch(raw, text, |outer, stretch, id| {
            if let Some(id) = id {
                return visit(Part::Token(stretch, id));
            }
            let normalized = match &self.normalizer {
                Some(normalizer) => normalizer.normalize(stretch)?,
                None => Cow::Borrowed(stretch),
            };
            each_stretch(in_normalized, &normalized, |inner, text, id| match id {
                Some(id) => visit(Part::Token(text, id)),
                None => visit(Part::Text {
                    text,
                    is_first: outer.start == 0 && inner.start == 0,
                }),
            })
        })
    }

    /// Return what the ids of `text` stand for, joined as the vocabulary decodes them, and for each of its
    /// bytes the range of bytes in `text` that it comes from.
    ///
    /// # Errors
    /// As [`Tokenizer::encode_to`].
    pub fn align(&self, text: &str) -> Result<(Vec<u8>, Vec<Span>), Error> {
        let (raw, in_normalized) = match &self.finder {
            Some(finder) => (finder.raw.as_ref(), finder.normalized.as_ref()),
            None => (None, None),
        };
        let (mut bytes, mut spans) = (Vec::new(), Vec::new());
        let push_token = |id: u32, start: usize, end: usize, bytes: &mut Vec<u8>| {
            let token = self.vocab.token_bytes(id as usize).unwrap_or_default();
            bytes.extend_from_slice(token);
            repeat_n((start, end), token.len())
        };
        each_stretch(raw, text, |outer, stretch, id| {
            if let Some(id) = id {
                spans.extend(push_token(id, outer.start, outer.end, &mut bytes));
                return Ok(());
            }
            let mut aligned = Aligned::new(stretch, outer.start);
            if let Some(normalizer) = &self.normalizer {
                aligned = normalizer.align(aligned)?;
            }
            each_stretch(in_normalized, &aligned.text, |inner, _, id| {
                if let Some(id) = id {
                    let (start, end) =
                        (aligned.spans[inner.start].0, aligned.spans[inner.end - 1].1);
                    spans.extend(push_token(id, start, end, &mut bytes));
                    return Ok(());
                }
                let is_first = outer.start == 0 && inner.start == 0;
                let part = || aligned.part(inner.clone());
                let part = match self.pattern.rewrite(part, is_first)? {
                    Some(rewritten) => rewritten.text,
                    None => part(),
                };
                bytes.extend_from_slice(part.text.as_bytes());
                spans.extend_from_slice(&part.spans);
                Ok(())
            })
        })?;
        Ok((bytes, spans))
    }

    /// Whether the tokens of a text, joined, are the text.
    pub fn keeps_text(&self) -> bool {
        let changes = |token: &AddedToken| {
            let bytes = self.vocab.token_bytes(token.id as usize);
            token.lstrip || token.rstrip || token.normalized || bytes != Some(token.name.as_bytes())
        };
        self.normalizer.is_none()
            && !self.pattern.rewrites()
            && !self.added_tokens.iter().any(changes)
    }

    /// Encode `bytes` with the tokens that `finder` finds; `text` is the same if they are UTF-8.
    fn encode(
        &self,
        context: &Context,
        bytes: &[u8],
        text: Option<&str>,
        finder: Option<&TokenFinder>,
        sink: &mut impl Sink,
    ) -> Result<(), Error> {
        let mut scratch = self.take_scratch()?;
        let is_plain = finder.is_none() && self.normalizer.is_none() && !self.pattern.rewrites();
        let done = match text {
            Some(text) if is_plain => {
                let pieces = Pieces::OfText(text);
                self.encode_pieces(context, &mut scratch, bytes, pieces, sink)
            }
            None if is_plain => {
                self.encode_pieces(context, &mut scratch, bytes, Pieces::OfBytes, sink)
            }
            Some(text) => self.encode_parts(finder, context, &mut scratch, text, sink),
            None => stretches(bytes, |_, stretch| match std::str::from_utf8(stretch) {
                Ok(text) => self.encode_parts(finder, context, &mut scratch, text, sink),
                Err(_) => {
                    let pieces = Pieces::At(&[stretch.len()]);
                    self.encode_pieces(context, &mut scratch, stretch, pieces, sink)
                }
            }),
        };
        scratch.merger.shrink();
        self.return_scratch(scratch);
        done
    }

    /// Encode a text that may contain added tokens, or that the normalizer or the pattern may change.
    fn encode_parts(
        &self,
        finder: Option<&TokenFinder>,
        context: &Context,
        scratch: &mut Scratch,
        text: &str,
        sink: &mut impl Sink,
    ) -> Result<(), Error> {
        self.each_part(finder, text, |part| match part {
            Part::Token(_, id) => {
                context.check()?;
                match u16::try_from(id) {
                    Ok(id) if self.vocab.fits_16_bits() => sink.narrow(&[id]),
                    _ => sink.wide(&[id]),
                }
            }
            Part::Text { text, is_first } => {
                match self.pattern.rewrite(|| text.to_owned(), is_first)? {
                    None => {
                        let pieces = Pieces::OfText(text);
                        self.encode_pieces(context, scratch, text.as_bytes(), pieces, sink)
                    }
                    Some(rewritten) => {
                        let (bytes, pieces) =
                            (rewritten.text.as_bytes(), Pieces::At(&rewritten.ends));
                        self.encode_pieces(context, scratch, bytes, pieces, sink)
                    }
                }
            }
        })
    }

    /// Encode `bytes`, whose pre-tokens are `pieces`.
    fn encode_pieces(
        &self,
        context: &Context,
        scratch: &mut Scratch,
        bytes: &[u8],
        pieces: Pieces,
        sink: &mut impl Sink,
    ) -> Result<(), Error> {
        if self.vocab.fits_16_bits() {
            let emit = |ids: &[u16]| sink.narrow(ids);
            TextEncoder::new(context, self, scratch, bytes, emit).run(pieces)
        } else {
            let emit = |ids: &[u32]| sink.wide(ids);
            TextEncoder::new(context, self, scratch, bytes, emit).run(pieces)
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
