//! From a text to pre-tokens, 64 bytes at a time.
//!
//! Where a pre-token begins depends mostly on the classes of a few adjacent characters. So the text is
//! read in windows of 64 bytes: SIMD instructions give the class of each byte as a bit of a `u64`, and a
//! few shifts turn these masks into a mask of the bytes at which pre-tokens begin.
//!
//! Only the first [`STEP`] bits of a window count; the others are look-ahead. The character at bit 55 ends
//! at bit 58 at the latest, and the one after it at bit 62.
//!
//! What rarely occurs and would need more is left to an exact function that reads one character at a
//! time. The patterns look ahead but never behind. So the windows can go on wherever a pre-token begins,
//! as if the text began there.

#[cfg(target_arch = "x86_64")]
use super::simd::{Avx2, Avx512};
use super::simd::{Level, Portable, Simd};
use super::visitor::{BATCH_PIECES, Visitor};
use super::window::{COUNTED, Masks, STEP, WINDOW, Window};
use crate::error::Error;

/// How a pattern cuts.
pub(super) trait Rules {
    /// Find where pre-tokens begin in a window.
    fn starts<S: Simd>(carry: &mut Carry, window: &Window) -> Starts;

    /// Return the length in bytes, never 0, of the pre-token at the start of `text`, which is not empty.
    fn match_length(text: &[u8]) -> usize;
}

/// Where pre-tokens begin in a window.
pub(super) struct Starts {
    /// A bit for each first byte.
    pub(super) mask: u64,
    /// The lowest bit is the place up to which `mask` is known.
    pub(super) doubt: u64,
}

/// What a window needs to know of the previous one: of each class, whether the last byte is in it.
#[derive(Clone, Copy, Default)]
pub(super) struct Carry {
    pub(super) word: u64,
    pub(super) number: u64,
    pub(super) space: u64,
    pub(super) other: u64,
    pub(super) blank: u64,
    pub(super) newline: u64,
    pub(super) han: u64,
    pub(super) lower_only: u64,
    pub(super) both_cases: u64,
    pub(super) non_ascii: u64,
    /// From bit 0 on: what joins a word that follows, and ended right before.
    pub(super) prefix: u64,
    /// Whether the last byte is a newline that belongs to the punctuation before it.
    pub(super) tail: u64,
    /// Whether the last byte is in a run of ASCII letters that only such letters continue.
    pub(super) ascii_run: u64,
    /// The number of digits at the end that later ones can join.
    pub(super) digits: usize,
    /// From bit 0 on: where a contraction that began in the previous window ends or continues.
    pub(super) contraction_ends: u64,
    pub(super) contraction_inside: u64,
    /// The flags of the last character.
    pub(super) flags: u8,
}

impl Carry {
    /// Keep the classes at the end of a window. The masks that a scanner changes are given apart.
    #[inline(always)]
    pub(super) fn keep(&mut self, masks: &Masks, word: u64, space: u64, other: u64, han: u64) {
        self.word = last(word);
        self.number = last(masks.number);
        self.space = last(space);
        self.other = last(other);
        self.blank = last(masks.blank);
        self.newline = last(masks.newline);
        self.han = last(han);
        self.non_ascii = last(masks.non_ascii);
    }
}

/// The bit of the last byte that counts, as bit 0.
#[inline(always)]
pub(super) fn last(mask: u64) -> u64 {
    mask >> (STEP - 1) & 1
}

/// Room for what [`Simd::write_positions`] may overwrite beyond the last pre-token.
const ROOM: usize = WINDOW - STEP;

/// The state between batches of pre-tokens.
pub(super) struct Scan<'t> {
    text: &'t [u8],
    /// Where the next window begins.
    at: usize,
    /// 1 if a pre-token that is already known to begin there does, else 0.
    is_start: u64,
    carry: Carry,
    /// Where the first pre-token of the batch begins.
    start: usize,
    /// Where the `n` pre-tokens of the batch end.
    ends: [usize; BATCH_PIECES + ROOM],
    n: usize,
}

/// Adds a batch of pre-tokens. Its processor must have the instructions.
type Fill = unsafe fn(&mut Scan);

/// The functions that cut by a pattern, for each level of instructions.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fills {
    portable: Fill,
    #[cfg(target_arch = "x86_64")]
    avx2: Fill,
    #[cfg(target_arch = "x86_64")]
    avx512: Fill,
}

impl Fills {
    pub(super) const fn of<R: Rules>() -> Fills {
        Fills {
            portable: fill::<Portable, R>,
            #[cfg(target_arch = "x86_64")]
            avx2: fill_with_avx2::<R>,
            #[cfg(target_arch = "x86_64")]
            avx512: fill_with_avx512::<R>,
        }
    }

    /// Pass the pre-tokens of `text` to `visitor`, in order.
    #[inline]
    pub(super) fn split(self, text: &str, visitor: &mut impl Visitor) -> Result<(), Error> {
        self.split_at_level(Level::best(), text, visitor)
    }

    /// [`Fills::split`] with the instructions of `level`, which must be one of [`Level::available`].
    #[inline]
    pub(super) fn split_at_level(
        self,
        level: Level,
        text: &str,
        visitor: &mut impl Visitor,
    ) -> Result<(), Error> {
        let text = text.as_bytes();
        match level {
            // SAFETY: the level is available, so the processor has these instructions.
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => unsafe { visit_with_avx512(self.avx512, text, visitor) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => unsafe { visit_with_avx2(self.avx2, text, visitor) },
            // SAFETY: every processor has ordinary arithmetic.
            Level::Portable => unsafe { visit(self.portable, text, visitor) },
        }
    }
}

// `visit` and `fill` and everything they call, including the visitor, are inlined into these functions,
// and so compiled for these instructions.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,bmi1,bmi2,lzcnt,popcnt")]
fn visit_with_avx512(fill: Fill, text: &[u8], visitor: &mut impl Visitor) -> Result<(), Error> {
    // SAFETY: the caller's processor has the instructions.
    unsafe { visit(fill, text, visitor) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
fn visit_with_avx2(fill: Fill, text: &[u8], visitor: &mut impl Visitor) -> Result<(), Error> {
    // SAFETY: as above.
    unsafe { visit(fill, text, visitor) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,bmi1,bmi2,lzcnt,popcnt")]
fn fill_with_avx512<R: Rules>(scan: &mut Scan) {
    fill::<Avx512, R>(scan);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
fn fill_with_avx2<R: Rules>(scan: &mut Scan) {
    fill::<Avx2, R>(scan);
}

/// Pass all pre-tokens to the visitor, batch by batch.
///
/// # Safety
/// The processor must have the instructions of `fill`.
#[inline(always)]
unsafe fn visit(fill: Fill, text: &[u8], visitor: &mut impl Visitor) -> Result<(), Error> {
    let mut scan = Scan {
        text,
        at: 0,
        is_start: 1,
        carry: Carry::default(),
        start: 0,
        ends: [0; BATCH_PIECES + ROOM],
        n: 0,
    };
    while scan.at < text.len() {
        // SAFETY: the caller promises it.
        unsafe { fill(&mut scan) };
        if scan.at >= text.len() {
            scan.push(text.len());
        }
        let ends = &scan.ends[..scan.n];
        visitor.pieces(scan.start, ends)?;
        scan.start = ends.last().copied().unwrap_or(scan.start);
        scan.n = 0;
    }
    Ok(())
}

/// Add pre-tokens until another window might not find room for its own and the last one of the text.
#[inline(always)]
fn fill<S: Simd, R: Rules>(scan: &mut Scan) {
    let text = scan.text;
    let mut carry = scan.carry;
    while scan.at < text.len() && scan.n < BATCH_PIECES - STEP - 1 {
        let at = scan.at;
        let mut padded;
        let (bytes, inside) = match text[at..].first_chunk::<WINDOW>() {
            Some(bytes) => (bytes, u64::MAX),
            None => {
                let n = text.len() - at;
                padded = [0; WINDOW];
                padded[..n].copy_from_slice(&text[at..]);
                (&padded, (1 << n) - 1)
            }
        };
        let window = Window {
            text,
            at,
            bytes,
            inside,
        };
        let Starts { mask, doubt } = R::starts::<S>(&mut carry, &window);
        let starts = mask & COUNTED & inside & !scan.is_start;
        let doubt = doubt & COUNTED & inside;
        if doubt == 0 {
            scan.push_all::<S>(starts);
            scan.at += STEP;
            scan.is_start = 0;
        } else {
            let known = (doubt & doubt.wrapping_neg()) - 1;
            scan.push_all::<S>(starts & known);
            scan.pass(at + doubt.trailing_zeros() as usize, R::match_length);
            carry = Carry::default();
        }
    }
    scan.carry = carry;
}

impl Scan<'_> {
    fn push(&mut self, end: usize) {
        self.ends[self.n] = end;
        self.n += 1;
    }

    /// Push the position of each bit of `starts`: where a pre-token begins, the previous one ends.
    #[inline(always)]
    fn push_all<S: Simd>(&mut self, starts: u64) {
        if let Some(places) = self.ends[self.n..].first_chunk_mut() {
            // SAFETY: `Fills` selects an S whose instructions the processor has.
            unsafe { S::write_positions(starts, self.at, places) };
        }
        self.n += starts.count_ones() as usize;
    }

    /// Find pre-tokens with `match_length` until one contains the byte at `place`, and go on after it.
    #[cold]
    fn pass(&mut self, place: usize, match_length: fn(&[u8]) -> usize) {
        let mut end = match self.n {
            0 => self.start,
            n => self.ends[n - 1],
        };
        while end <= place {
            end += match_length(&self.text[end..]);
            if end < self.text.len() {
                self.push(end);
            }
        }
        self.at = end;
        self.is_start = 1;
    }
}

#[cfg(test)]
mod tests;
