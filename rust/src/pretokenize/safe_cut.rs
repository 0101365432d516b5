//! Places where any text may be cut in two that has these characters, with the same pre-tokens.
//!
//! The second text is split alike if a pre-token starts there in the whole, since the patterns look
//! ahead, never behind. The first text is split alike if its end is as good as what followed, to the
//! matches that come close to it: they look one character ahead, over white space also further.

use super::classes::{LETTER, classes};

/// The last such place within `text`, whichever of the known patterns it is split by.
pub(super) fn last_in(text: &str) -> Option<usize> {
    let (mut right, mut next) = (None, None);
    for (i, left) in text.char_indices().rev() {
        if let Some((at, between)) = right {
            let is_letter = || classes().next(text.as_bytes(), i).0 & LETTER != 0;
            if is_safe(left, between, is_letter) {
                return Some(at);
            }
            if between == '\n' && is_line_end(left, next) {
                return Some(at + 1);
            }
        }
        next = right.map(|(_, between)| between);
        right = Some((i, left));
    }
    None
}

/// Whether a text may be cut between `left` and `right`.
///
/// - Before a space after anything but white space. No match has both: a space stands first in a
///   match, or in a run of white space.
/// - Between a letter and a newline. All three match newlines after punctuation or in runs of white
///   space.
/// - Between a letter and punctuation of Chinese and Japanese, for texts without spaces. What follows
///   a letter in a match is a letter, a mark or an apostrophe.
fn is_safe(left: char, right: char, left_is_letter: impl Fn() -> bool) -> bool {
    match right {
        ' ' => !left.is_whitespace(),
        '\n' | '、' | '。' | '！' | '，' | '：' | '；' | '？' => left_is_letter(),
        _ => false,
    }
}

/// Whether a text may be cut after a newline with `left` before it and `next` behind it.
///
/// If both are something else than white space, the newline ends a match: of itself alone, or of
/// punctuation and the newline. Only o200k goes on there, with slashes. The patterns treat white space
/// at the end of a text in another way, but a single newline is one match also by that.
fn is_line_end(left: char, next: Option<char>) -> bool {
    !left.is_whitespace() && next.is_some_and(|next| next != '/' && !next.is_whitespace())
}
