//! GPT-2's split pattern, by bit masks instead of a regular expression.
//!
//! Where a pre-token begins depends only on the classes of a few adjacent characters. So the text is
//! read in windows of 64 bytes: SIMD instructions give the class of each byte as a bit of a `u64`, and a
//! few shifts turn these masks into a mask of the bytes at which pre-tokens begin.
//!
//! All bytes of a character get its class, so that "the previous character" is the next lower bit. Only
//! the first [`STEP`] bits of a window count; the others are look-ahead. The character at bit 55 ends at
//! bit 58 at the latest, and the one after it at bit 62.

use super::classes::{LETTER, NUMBER, SPACE, classes};
use super::simd::{AsciiMasks, Level, Portable, Simd};
#[cfg(target_arch = "x86_64")]
use super::simd::{Avx2, Avx512};
use super::visitor::{BATCH_PIECES, PieceBuffer, Visitor};
use crate::error::Error;

/// The split pattern that was published with GPT-2.
pub const GPT2_REGEX: &str =
    r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

/// The number of bytes in a window.
const WINDOW: usize = 64;
/// The number of bytes from one window to the next.
const STEP: usize = 56;

/// Pass the pre-tokens of `text` to `visitor`, in order.
#[inline]
pub(super) fn split(text: &str, visitor: &mut impl Visitor) -> Result<(), Error> {
    split_at_level(Level::best(), text, visitor)
}

/// [`split`] with the instructions of `level`, which must be one of [`Level::available`].
#[inline]
fn split_at_level(level: Level, text: &str, visitor: &mut impl Visitor) -> Result<(), Error> {
    match level {
        // SAFETY: the level is available, so the processor has these instructions.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { split_with_avx512(text.as_bytes(), visitor) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { split_with_avx2(text.as_bytes(), visitor) },
        Level::Portable => split_with::<Portable>(text.as_bytes(), visitor),
    }
}

// `split_with` and everything it calls, including the visitor, are inlined into these two functions, and
// so compiled for these instructions.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,bmi1,bmi2,lzcnt,popcnt")]
fn split_with_avx512(text: &[u8], visitor: &mut impl Visitor) -> Result<(), Error> {
    split_with::<Avx512>(text, visitor)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
fn split_with_avx2(text: &[u8], visitor: &mut impl Visitor) -> Result<(), Error> {
    split_with::<Avx2>(text, visitor)
}

#[inline(always)]
fn split_with<S: Simd>(text: &[u8], visitor: &mut impl Visitor) -> Result<(), Error> {
    let mut scanner = Scanner::default();
    let mut pieces = PieceBuffer::new(visitor);
    let mut at = 0;
    while at < text.len() {
        let mut starts = match text[at..].first_chunk::<WINDOW>() {
            Some(window) => scanner.starts::<S>(window, WINDOW),
            None => {
                let mut padded = [0; WINDOW];
                padded[..text.len() - at].copy_from_slice(&text[at..]);
                scanner.starts::<S>(&padded, text.len() - at)
            }
        };
        if at == 0 {
            starts &= !1;
        }
        if pieces.n >= BATCH_PIECES - STEP {
            pieces.flush()?;
        }
        push_all(&mut pieces, starts, at);
        at += STEP;
    }
    if !text.is_empty() {
        pieces.push(text.len())?;
    }
    pieces.flush()
}

/// Push the position of each bit of `starts`, where bit 0 is at `at`: where a pre-token begins, the
/// previous one ends. The caller makes sure that there is room.
#[inline(always)]
fn push_all<V: Visitor>(pieces: &mut PieceBuffer<V>, mut starts: u64, at: usize) {
    let count = starts.count_ones() as usize;
    let places = &mut pieces.ends[pieces.n..];
    // Most windows have at most 16 bits. Always writing 16 positions takes less time than a mispredicted
    // branch.
    if let Some(places) = places.first_chunk_mut::<16>() {
        for place in places {
            *place = at + starts.trailing_zeros() as usize;
            starts &= starts.wrapping_sub(1);
        }
    }
    for place in places.iter_mut().skip(16) {
        if starts == 0 {
            break;
        }
        *place = at + starts.trailing_zeros() as usize;
        starts &= starts - 1;
    }
    pieces.n += count;
}

/// What a window needs to know of the previous one: in bit 0 of each class, whether its last byte is in
/// the class; from bit 0 on, where a contraction that began there ends or continues.
#[derive(Default)]
struct Scanner {
    letter: u64,
    number: u64,
    space: u64,
    other: u64,
    blank: u64,
    contraction_ends: u64,
    contraction_inside: u64,
}

impl Scanner {
    /// Return a mask of the bytes in `window` at which pre-tokens begin. Bits from STEP or `len` on are 0.
    #[inline(always)]
    fn starts<S: Simd>(&mut self, window: &[u8; WINDOW], len: usize) -> u64 {
        let AsciiMasks { mut letter, mut number, mut space, blank, apostrophe, non_ascii } =
            // SAFETY: `split_at_level` selects an S whose instructions the processor has.
            unsafe { S::ascii_masks(window) };
        let inside_text = u64::MAX >> (WINDOW - len);
        let mut continuation = 0;
        if non_ascii != 0 {
            let masks = self.non_ascii_masks(window, non_ascii);
            letter |= masks.letter;
            number |= masks.number;
            space |= masks.space;
            continuation = masks.continuation;
        }
        // At the end of the text, a run of white space does not leave its last character to a word. So let
        // it look as if it continued.
        space |= !inside_text;
        let other = !(letter | number | space);

        let after_other = other << 1 | self.other;
        let after_blank = blank << 1 | self.blank;
        // A run of letters, numbers or others begins. A blank right before it belongs to it.
        let runs = (letter & !(letter << 1 | self.letter))
            | (number & !(number << 1 | self.number))
            | (other & !after_other);
        // A run of white space begins with its first character, and another pre-token with its last
        // one, which `\s+(?!\S)` leaves to what follows.
        let mut last_spaces = space & !(space >> 1);
        if continuation & space != 0 {
            // These bits are the last bytes of characters of two or three bytes: move them to the first.
            for _ in 0..2 {
                last_spaces = (last_spaces & !continuation) | (last_spaces & continuation) >> 1;
            }
        }
        let mut starts = (runs & !after_blank) | (space & !(space << 1 | self.space)) | last_spaces;

        let (mut ends, mut inside) = (self.contraction_ends, self.contraction_inside);
        let mut candidates = apostrophe & !after_other & !after_blank & COUNTED;
        while candidates != 0 {
            let at = candidates.trailing_zeros() as usize;
            if let Some(length) = contraction(&window[at..]) {
                inside |= 2 << at;
                ends |= 1 << (at + length);
            }
            candidates &= candidates - 1;
        }
        starts = starts & !inside | ends;

        let class_at_end = |mask: u64| mask >> (STEP - 1) & 1;
        *self = Scanner {
            letter: class_at_end(letter),
            number: class_at_end(number),
            space: class_at_end(space),
            other: class_at_end(other),
            blank: class_at_end(blank),
            contraction_ends: ends >> STEP,
            contraction_inside: inside >> STEP,
        };
        starts & COUNTED & inside_text
    }

    /// The classes of the characters beyond ASCII that begin in the first bytes of the window.
    #[cold]
    fn non_ascii_masks(&self, window: &[u8; WINDOW], mut non_ascii: u64) -> NonAsciiMasks {
        let mut masks = NonAsciiMasks::default();
        // The rest of a character that began in the previous window.
        let n = window
            .iter()
            .take_while(|&&byte| is_continuation(byte))
            .count();
        let bits = (1 << n) - 1;
        masks.letter = bits * self.letter;
        masks.number = bits * self.number;
        masks.space = bits * self.space;
        masks.continuation = bits;
        non_ascii &= !bits;
        while non_ascii != 0 {
            let at = non_ascii.trailing_zeros() as usize;
            if at > WINDOW - 4 {
                break;
            }
            let (class, length) = classes().next(window, at);
            let bits = ((1 << length) - 1) << at;
            let only_if = |wanted: u8| if class & wanted != 0 { bits } else { 0 };
            masks.letter |= only_if(LETTER);
            masks.number |= only_if(NUMBER);
            masks.space |= only_if(SPACE);
            masks.continuation |= bits & (bits << 1);
            non_ascii &= !bits;
        }
        masks
    }
}

/// The bits of a window that are not look-ahead.
const COUNTED: u64 = (1 << STEP) - 1;

#[derive(Default)]
struct NonAsciiMasks {
    letter: u64,
    number: u64,
    space: u64,
    /// All bytes but the first of each character.
    continuation: u64,
}

fn is_continuation(byte: u8) -> bool {
    byte & 0xC0 == 0x80
}

/// Return the length of the English contraction at the start of `text`: 's 'd 'm 't 'll 've 're.
fn contraction(text: &[u8]) -> Option<usize> {
    match text {
        [b'\'', b's' | b'd' | b'm' | b't', ..] => Some(2),
        [b'\'', b'l', b'l', ..] | [b'\'', b'v' | b'r', b'e', ..] => Some(3),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use fancy_regex::Regex;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        // Several windows long, with every kind of character at their borders.
        #[test]
        fn every_level_cuts_as_the_regular_expression_does(
            text in "([a-c]{0,9}|[0-9]{0,3}|'(s|d|ll|ve|re|x)?|[ \t\n\r\x0b]{0,3}|[.,!]{0,9}|\
                     [\u{a0}\u{85}\u{2028}\u{3000}]{0,3}|[éßжक漢]{0,3}|[²٣½]|\u{301}|🙂){0,60}"
        ) {
            let regex = Regex::new(GPT2_REGEX).unwrap();
            let expected: Vec<_> =
                regex.find_iter(&text).map(|found| found.unwrap().range()).collect();
            for &level in Level::available() {
                let mut pieces = Vec::new();
                let mut add = |start, end| {
                    pieces.push(start..end);
                    Ok(())
                };
                split_at_level(level, &text, &mut add).unwrap();
                prop_assert_eq!(&pieces, &expected, "{:?} on {:?}", level, text);
            }
        }
    }
}
