//! The split pattern of `o200k_base` (GPT-4o and later).

use super::classes::{LOWER, NEWLINE, NUMBER, OTHER, UPPER, classes};
use super::shared::{contraction_end, number_end, white_space_end};

/// The split pattern that tiktoken 0.14 publishes for `o200k_base`.
pub const O200K_REGEX: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|\p{N}{1,3}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]*",
    r"|\s*[\r\n]+",
    r"|\s+(?!\S)",
    r"|\s+",
);

/// Return the length in bytes of the match of [`O200K_REGEX`] at the start of `text`, which is not empty.
///
/// All matches together take linear time: a match reads beyond its end only in white space and in upper
/// case, where at most two more matches start (see [`white_space_end`] and [`word_end`]).
pub(super) fn match_length(text: &str) -> usize {
    let text = text.as_bytes();
    let classes = classes();
    let (first, first_length) = classes.next(text, 0);
    // A mark may start a word, and as it is neither a letter nor a number, it may also precede one. The
    // pattern tries the latter first, but the word ends at the same place either way: if the mark is
    // part of the word, the run of UPPER only starts earlier.
    if first & (UPPER | LOWER) != 0 {
        return word_end(text, 0);
    }
    if first & NUMBER != 0 {
        return number_end(text);
    }
    let (second, _) = classes.next(text, first_length);
    if first & NEWLINE == 0 && second & (UPPER | LOWER) != 0 {
        return word_end(text, first_length);
    }
    if first & OTHER != 0 || (text[0] == b' ' && second & OTHER != 0) {
        let others = classes.run_end(text, first_length, OTHER);
        let tail = text[others..]
            .iter()
            .position(|byte| !matches!(byte, b'\r' | b'\n' | b'/'));
        return tail.map_or(text.len(), |length| others + length);
    }
    white_space_end(text)
}

/// Return the end of the word that begins at `start` with a character in UPPER or LOWER: what the first
/// two branches of [`O200K_REGEX`] match there.
///
/// Both branches begin with the longest run of UPPER. The first branch needs at least one LOWER after it:
/// the characters that follow, or else, by backtracking, the last one of the run that is in both sets.
/// The rest of the run is then upper case only; the next match reads it again and takes all of it by the
/// second branch.
#[inline]
fn word_end(text: &[u8], start: usize) -> usize {
    let classes = classes();
    let mut upper_end = start;
    let mut both_end = start;
    loop {
        let (class, length) = classes.next(text, upper_end);
        if class & UPPER == 0 {
            break;
        }
        upper_end += length;
        if class & LOWER != 0 {
            both_end = upper_end;
        }
    }
    let lower_end = classes.run_end(text, upper_end, LOWER);
    let end = if lower_end == upper_end && both_end > start {
        both_end
    } else {
        lower_end
    };
    contraction_end(text, end)
}
