//! The split pattern of `cl100k_base` (GPT-3.5 and GPT-4).

use super::classes::{LETTER, NEWLINE, NUMBER, OTHER, SPACE, classes};
use super::shared::{contraction_end, number_end, white_space_end};

/// The split pattern that tiktoken 0.14 publishes for `cl100k_base`.
///
/// Earlier versions had `\s*[\r\n]+` without `\s++$` before it: they cut white space at the end of a
/// text after its last newline, while this version keeps it whole.
pub const CL100K_REGEX: &str = concat!(
    r"'(?i:[sdmt]|ll|ve|re)",
    r"|[^\r\n\p{L}\p{N}]?+\p{L}++",
    r"|\p{N}{1,3}+",
    r"| ?[^\s\p{L}\p{N}]++[\r\n]*+",
    r"|\s++$",
    r"|\s*[\r\n]",
    r"|\s+(?!\S)",
    r"|\s",
);

/// Return the length in bytes of the match of [`CL100K_REGEX`] at the start of `text`, which is not empty.
///
/// All matches together take linear time: a match reads beyond its end only in white space, where at
/// most two more matches start (see [`white_space_end`]).
pub(super) fn match_length(text: &str) -> usize {
    let text = text.as_bytes();
    match_before_white_space(text).unwrap_or_else(|| {
        let run = classes().run_end(text, 0, SPACE);
        if run == text.len() {
            run
        } else {
            white_space_end(text)
        }
    })
}

/// [`match_length`] for [`OLD_CL100K_REGEX`](super::OLD_CL100K_REGEX).
pub(super) fn old_match_length(text: &str) -> usize {
    let text = text.as_bytes();
    match_before_white_space(text).unwrap_or_else(|| white_space_end(text))
}

/// The length of the match if one of the branches before those for white space matches.
#[inline(always)]
fn match_before_white_space(text: &[u8]) -> Option<usize> {
    let classes = classes();
    let (first, first_length) = classes.next(text, 0);
    if first & LETTER != 0 {
        return Some(classes.run_end(text, first_length, LETTER));
    }
    if first & NUMBER != 0 {
        return Some(number_end(text));
    }
    let contraction = contraction_end(text, 0);
    if contraction > 0 {
        return Some(contraction);
    }
    let (second, second_length) = classes.next(text, first_length);
    if first & NEWLINE == 0 && second & LETTER != 0 {
        return Some(classes.run_end(text, first_length + second_length, LETTER));
    }
    if first & OTHER != 0 || (text[0] == b' ' && second & OTHER != 0) {
        let others = classes.run_end(text, first_length, OTHER);
        return Some(classes.run_end(text, others, NEWLINE));
    }
    None
}
