//! Places where a text can be cut in two without changing its pre-tokens, whatever else is in the text.
//!
//! The second text keeps its pre-tokens if one of them starts at the cut, since the patterns look ahead
//! but never behind. The first text keeps its pre-tokens if the matches near the cut treat the end of
//! the text like the character that followed. They look one character ahead, and further only over
//! white space.

use super::classes::{LETTER, classes};

/// Find the last such place in `text`. It is safe for each of the named patterns.
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

/// Whether a text may be cut between `left` and `right`:
///
/// - between anything but white space and a space: a match has a space at its start or in a run of white
///   space only;
/// - between a letter and a newline: all patterns match newlines only after punctuation or in a run of
///   white space;
/// - between a letter and Chinese or Japanese punctuation, for texts without spaces: within a match, only
///   a letter, a mark or an apostrophe follows a letter.
fn is_safe(left: char, right: char, left_is_letter: impl Fn() -> bool) -> bool {
    match right {
        ' ' => !left.is_whitespace(),
        '\n' | '、' | '。' | '！' | '，' | '：' | '；' | '？' => left_is_letter(),
        _ => false,
    }
}

/// Whether a text may be cut after a newline between `left` and `next`.
///
/// If neither is white space, the newline ends a match: it is a match by itself, or the end of a match of
/// punctuation. Only o200k continues such a match, with slashes. The patterns have other rules for white
/// space at the end of a text, but a single newline is one match by these rules too.
fn is_line_end(left: char, next: Option<char>) -> bool {
    !left.is_whitespace() && next.is_some_and(|next| next != '/' && !next.is_whitespace())
}
