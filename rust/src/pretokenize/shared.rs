//! The parts that the patterns of cl100k and o200k share.

use super::classes::{NEWLINE, NUMBER, SPACE, classes};

/// The end of the match of `(?:'(?i:[sdmt]|ll|ve|re))?` at `at`.
#[inline]
pub(super) fn contraction_end(text: &[u8], at: usize) -> usize {
    let letters = match &text[at..] {
        [b'\'', letters @ ..] => letters,
        _ => return at,
    };
    let length = match letters {
        [b's' | b'S' | b'd' | b'D' | b'm' | b'M' | b't' | b'T', ..] => 2,
        [b'l' | b'L', b'l' | b'L', ..] | [b'v' | b'V' | b'r' | b'R', b'e' | b'E', ..] => 3,
        // U+017F, the long s: the only one beyond ASCII that is one of these letters but for case.
        [0xc5, 0xbf, ..] => 3,
        _ => 0,
    };
    at + length
}

/// The end of the match of `\p{N}{1,3}` at the start of `text`, which is a number.
#[inline]
pub(super) fn number_end(text: &[u8]) -> usize {
    let mut end = 0;
    for _ in 0..3 {
        let (class, length) = classes().next(text, end);
        if class & NUMBER == 0 {
            break;
        }
        end += length;
    }
    end
}

/// The end of the match of `\s*[\r\n]+|\s+(?!\S)|\s+` at the start of `text`, which is white space.
///
/// It ends after the last newline of the run of white space; without newlines, before the last
/// character, so that this one can join the word that follows; a single character stands alone, and
/// nothing is held back at the end of the text. A run is thus read three times at most: as a whole,
/// from its last newline on, and its last character.
pub(super) fn white_space_end(text: &[u8]) -> usize {
    let mut end = 0;
    let mut last_start = 0;
    let mut newline_end = 0;
    loop {
        let (class, length) = classes().next(text, end);
        if class & SPACE == 0 {
            break;
        }
        last_start = end;
        end += length;
        if class & NEWLINE != 0 {
            newline_end = end;
        }
    }
    if newline_end > 0 {
        newline_end
    } else if last_start > 0 && end < text.len() {
        last_start
    } else {
        end
    }
}
