//! What the rules of several patterns share.

use super::classes::{NEWLINE, NUMBER, SPACE, classes};
use super::scan::{Carry, last};
use super::window::{CLASSIFIED, COUNTED, Masks, STEP, Window};

/// The bytes right after those of `mask`. `carry` is the bit of the byte before the window.
#[inline(always)]
pub(super) fn after(mask: u64, carry: u64) -> u64 {
    mask << 1 | carry
}

/// Newlines that belong to the punctuation before them.
pub(super) struct Tails {
    pub(super) inside: u64,
    /// The byte after each of them.
    pub(super) end: u64,
}

impl Tails {
    /// `first` are the newlines that may begin a tail.
    #[inline(always)]
    pub(super) fn of(carry: &mut Carry, newline: u64, first: u64) -> Tails {
        let first = newline & (first | carry.tail);
        // The sum clears a run of bits from its first one on, and sets the bit after it.
        let sum = newline.wrapping_add(first);
        let tails = Tails {
            inside: newline & !sum,
            end: (sum | carry.tail) & !newline,
        };
        carry.tail = last(tails.inside);
        tails
    }
}

/// The first white space after the last newline of each run of white space that has a newline.
///
/// `space` includes all bits after the end of the text. `first` is the white space after any newline,
/// without the newlines themselves. If `whole_end`, the run at the end of the text is never cut.
#[inline(always)]
pub(super) fn line_starts(window: &Window, masks: &Masks, first: u64, whole_end: bool) -> u64 {
    let first = first & COUNTED;
    if first == 0 {
        return 0;
    }
    let space = (masks.space | !window.inside) & !masks.newline;
    // As in `Tails`: the byte after each run.
    let ends = space.wrapping_add(first) & !space & ((1 << CLASSIFIED) - 1);
    if ends & masks.newline == 0 && ends.count_ones() == first.count_ones() {
        return first;
    }
    long_line_starts(window, first, whole_end)
}

/// [`line_starts`], by reading the runs. Each is read once, so this takes linear time.
#[cold]
fn long_line_starts(window: &Window, mut first: u64, whole_end: bool) -> u64 {
    let mut starts = 0;
    while first != 0 {
        let bit = first & first.wrapping_neg();
        let mut at = window.at + first.trailing_zeros() as usize;
        let class = loop {
            let (class, length) = classes().next(window.text, at);
            if class & SPACE == 0 || class & NEWLINE != 0 {
                break class;
            }
            at += length;
        };
        let is_whole = whole_end && at == window.text.len();
        if class & NEWLINE == 0 && !is_whole {
            starts |= bit;
        }
        first &= first - 1;
    }
    starts
}

/// The starts of pre-tokens of at most `GROUP` numbers.
#[inline(always)]
pub(super) fn number_starts<const GROUP: usize>(
    carry: &mut Carry,
    masks: &Masks,
    doubt: &mut u64,
) -> u64 {
    let number = masks.number;
    if GROUP == 1 {
        return number & !masks.continuation;
    }
    let digit = number & !masks.non_ascii;
    let after_number = after(number, carry.number);
    let after_wide = after(number & masks.non_ascii, carry.number & carry.non_ascii);
    *doubt |= number & !masks.continuation & (after_wide | masks.non_ascii & after_number);

    let mut next = number & !after_number;
    if carry.number & !carry.non_ascii & digit != 0 {
        let place = (GROUP - carry.digits) % GROUP;
        if digit.trailing_ones() as usize > place {
            next |= 1 << place;
        }
    }
    let joined = digit & digit << 1 & digit << 2 & if GROUP == 3 { digit << 3 } else { digit };
    let mut starts = 0;
    while next != 0 {
        starts |= next;
        next = next << GROUP & joined;
    }
    if last(digit) != 0 {
        let last_start = 63 - (starts & COUNTED | 1).leading_zeros() as usize;
        carry.digits = (STEP - last_start) % GROUP;
    }
    starts
}

/// Return the end of the match of `(?:'(?i:[sdmt]|ll|ve|re))?` at `at`.
#[inline]
pub(super) fn contraction_end(text: &[u8], at: usize) -> usize {
    let letters = match &text[at..] {
        [b'\'', letters @ ..] => letters,
        _ => return at,
    };
    let length = match letters {
        [b's' | b'S' | b'd' | b'D' | b'm' | b'M' | b't' | b'T', ..] => 2,
        [b'l' | b'L', b'l' | b'L', ..] | [b'v' | b'V' | b'r' | b'R', b'e' | b'E', ..] => 3,
        // U+017F, the long s, is the only character beyond ASCII that equals one of these letters when
        // case is ignored.
        [0xc5, 0xbf, ..] => 3,
        _ => 0,
    };
    at + length
}

/// Return the end of the match of `\p{N}{1,most}` at the start of `text`, which begins with a number.
#[inline]
pub(super) fn number_end(text: &[u8], most: usize) -> usize {
    let mut end = 0;
    for _ in 0..most {
        let (class, length) = classes().next(text, end);
        if class & NUMBER == 0 {
            break;
        }
        end += length;
    }
    end
}

/// Return the end of the match of `\s*[\r\n]+|\s+(?!\S)|\s+` at the start of `text`, which begins with
/// white space. Characters with one of the flags `ends` count as the end of the text.
///
/// The match ends after the last newline in the run of white space. If there is none, it ends before the
/// last character, which can then join the word that follows. But a single character is a match by
/// itself, and at the end of the text the whole run is one match. So each run is read at most three
/// times: as a whole, from its last newline on, and its last character.
pub(super) fn white_space_end(text: &[u8], ends: u16) -> usize {
    let mut end = 0;
    let mut last_start = 0;
    let mut newline_end = 0;
    let next = loop {
        let (class, length) = classes().next(text, end);
        if class & SPACE == 0 {
            break class;
        }
        last_start = end;
        end += length;
        if class & NEWLINE != 0 {
            newline_end = end;
        }
    };
    if newline_end > 0 {
        newline_end
    } else if last_start > 0 && next != 0 && next & ends == 0 {
        last_start
    } else {
        end
    }
}
