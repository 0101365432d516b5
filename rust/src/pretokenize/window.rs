//! The classes of the characters in 64 bytes of text, as bit masks.

use super::classes::{CJK, CONTROL, HAN, LETTER, LOWER, NUMBER, SPACE, UPPER, classes};
use super::simd::Simd;

/// The number of bytes in a window.
pub(super) const WINDOW: usize = 64;
/// The number of bytes from one window to the next. Those after them are look-ahead.
pub(super) const STEP: usize = 56;
/// The bits of a window that are not look-ahead.
pub(super) const COUNTED: u64 = (1 << STEP) - 1;
/// A character beyond ASCII may be cut off, and is not classified, if it begins here or later.
pub(super) const CLASSIFIED: usize = WINDOW - 3;

/// 64 bytes of a text, from `at` on.
pub(super) struct Window<'w> {
    pub(super) text: &'w [u8],
    pub(super) at: usize,
    pub(super) bytes: &'w [u8; WINDOW],
    /// The bits before the end of the text. The bytes after it are 0.
    pub(super) inside: u64,
}

/// All bytes of a character have its class, so that "the previous character" is the next lower bit.
pub(super) struct Masks {
    pub(super) letter: u64,
    pub(super) number: u64,
    pub(super) space: u64,
    /// What o200k counts as upper case; `upper & lower` are letters without case, and marks.
    pub(super) upper: u64,
    /// What o200k counts as lower case.
    pub(super) lower: u64,
    pub(super) han: u64,
    /// What DeepSeek cuts out as Chinese and Japanese.
    pub(super) cjk: u64,
    /// What is in no other class of DeepSeek's.
    pub(super) control: u64,
    pub(super) newline: u64,
    pub(super) blank: u64,
    pub(super) apostrophe: u64,
    pub(super) slash: u64,
    pub(super) non_ascii: u64,
    /// All bytes but the first of each character.
    pub(super) continuation: u64,
}

impl Masks {
    /// `flags` are those of the character that a window begins within; they are set for the next window.
    #[inline(always)]
    pub(super) fn of<S: Simd>(window: &Window, flags: &mut u8) -> Masks {
        // SAFETY: `Fills` selects an S whose instructions the processor has.
        let ascii = unsafe { S::ascii_masks(window.bytes) };
        let mut masks = Masks {
            letter: ascii.letter,
            number: ascii.number,
            space: ascii.space,
            upper: ascii.upper,
            lower: ascii.letter & !ascii.upper,
            han: 0,
            cjk: 0,
            control: ascii.control & !ascii.space & window.inside,
            newline: ascii.newline,
            blank: ascii.blank,
            apostrophe: ascii.apostrophe,
            slash: ascii.slash,
            non_ascii: ascii.non_ascii,
            continuation: ascii.continuation,
        };
        if ascii.non_ascii != 0 {
            let leads = ascii.non_ascii & !ascii.continuation;
            let flags_of_bytes = non_ascii_flags(window.bytes, leads, *flags);
            *flags = flags_of_bytes[STEP - 1];
            // SAFETY: as above.
            let with = |flag: u16| unsafe { S::with_flag(&flags_of_bytes, flag as u8) };
            let with = |flag| with(flag) & ascii.non_ascii;
            masks.letter |= with(LETTER);
            masks.number |= with(NUMBER);
            masks.space |= with(SPACE);
            masks.upper |= with(UPPER);
            masks.lower |= with(LOWER);
            masks.han |= with(HAN);
            masks.cjk |= with(CJK);
            masks.control |= with(CONTROL);
        }
        masks
    }

    /// `\p{M}`
    #[inline(always)]
    pub(super) fn mark(&self) -> u64 {
        self.upper & self.lower & !self.letter
    }
}

/// The lower eight flags of the characters beyond ASCII that begin at one of `leads`, for each of their
/// bytes. Those of other bytes may be anything. The window begins with the rest of a character with the
/// flags `first`, if it does not begin with a character.
fn non_ascii_flags(bytes: &[u8; WINDOW], leads: u64, first: u8) -> [u8; WINDOW] {
    let classes = classes();
    let mut flags = [0; WINDOW];
    flags[..4].fill(first);
    let mut leads = leads & ((1 << CLASSIFIED) - 1);
    while leads != 0 {
        let at = leads.trailing_zeros() as usize;
        let (class, _) = classes.next_beyond_ascii(bytes, at);
        if let Some(bytes) = flags[at..].first_chunk_mut() {
            *bytes = [class as u8; 4];
        }
        leads &= leads - 1;
    }
    flags
}

/// Move the bits of the first bytes of characters to their last bytes.
#[inline(always)]
pub(super) fn to_last_byte(mut mask: u64, continuation: u64) -> u64 {
    let not_last = continuation >> 1;
    if mask & not_last != 0 {
        for _ in 0..3 {
            mask = (mask & !not_last) | (mask & not_last) << 1;
        }
    }
    mask
}

/// Move the bits of the last bytes of characters of at most three bytes to their first bytes.
#[inline(always)]
pub(super) fn to_first_byte(mut mask: u64, continuation: u64) -> u64 {
    if mask & continuation != 0 {
        for _ in 0..2 {
            mask = (mask & !continuation) | (mask & continuation) >> 1;
        }
    }
    mask
}
