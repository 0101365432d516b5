//! The parts that the cl100k and o200k patterns share.

use super::classes::{NEWLINE, NUMBER, SPACE, classes};

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

/// Return the end of the match of `\p{N}{1,3}` at the start of `text`, which begins with a number.
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

/// Return the end of the match of `\s*[\r\n]+|\s+(?!\S)|\s+` at the start of `text`, which begins with
/// white space.
///
/// The match ends after the last newline in the run of white space. If there is none, it ends before the
/// last character, which can then join the word that follows. But a single character is a match by
/// itself, and at the end of the text the whole run is one match. So each run is read at most three
/// times: as a whole, from its last newline on, and its last character.
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
