//! The split patterns that tiktoken has published, by their text.
//!
//! tiktoken has spelled the same pattern in several ways over time, and files of Hugging Face have them in
//! Oniguruma's dialect. All spellings of a pattern cut every text alike, so one scanner serves them.

use super::dialect::Dialect;
use super::{CL100K_REGEX, GPT2_REGEX, O200K_REGEX, Pattern};

/// The split pattern of `cl100k_base` before tiktoken 0.9. At the end of a text, it cuts white space
/// after the last newline, while [`CL100K_REGEX`] keeps it whole. Llama 3 took it over.
pub const OLD_CL100K_REGEX: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);

/// What our own files have for `cl100k`: in Oniguruma, [`CL100K_REGEX`] would join numbers.
pub(super) const CL100K_IN_FILES: &str = concat!(
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s+\z|\s*[\r\n]|\s+(?!\S)|\s",
);

/// Spellings that mean the same in both dialects.
const IN_BOTH: [(&str, Pattern); 7] = [
    (GPT2_REGEX, Pattern::Gpt2),
    (
        r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
        Pattern::Gpt2,
    ),
    (
        r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s",
        Pattern::Gpt2,
    ),
    (O200K_REGEX, Pattern::O200k),
    (CL100K_IN_FILES, Pattern::Cl100k),
    (OLD_CL100K_REGEX, Pattern::OldCl100k),
    (
        concat!(
            r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}",
            r"| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",
        ),
        Pattern::OldCl100k,
    ),
];

/// The pattern that `text` spells, if tiktoken has published it.
pub(super) fn published(dialect: Dialect, text: &str) -> Option<Pattern> {
    if dialect == Dialect::FancyRegex && text == CL100K_REGEX {
        return Some(Pattern::Cl100k);
    }
    let known = IN_BOTH.iter().find(|(spelling, _)| *spelling == text);
    known.map(|(_, pattern)| pattern.clone())
}
