//! The split pattern of DeepSeek V2, V3 and R1.
//!
//! Their `tokenizer.json` has three expressions. Each cuts the pieces of the one before. So the text
//! before a number, and before Chinese or Japanese characters, ends there.

use super::classes::{CJK, CONTROL, LOWER, NEWLINE, NUMBER, OTHER, SPACE, UPPER, classes};
use super::rules::{Tails, after, line_starts, number_end, number_starts, white_space_end};
use super::scan::{Carry, Rules, Starts, last};
use super::simd::Simd;
use super::window::{COUNTED, Masks, STEP, Window, to_first_byte, to_last_byte};

/// The three expressions, in order.
pub(super) const DEEPSEEK_STEPS: [&str; 3] = [
    r"\p{N}{1,3}",
    "[一-龥\u{3040}-ゟ゠-ヿ]+",
    concat!(
        r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"##,
        "|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\r\n]*",
        r"|\s*[",
        "\r\n",
        r"]+|\s+(?!\S)|\s+",
    ),
];

/// One expression that cuts as the three do. Its last two branches are what they do not match.
pub(super) const DEEPSEEK_REGEX: &str = concat!(
    r"\p{N}{1,3}",
    r"|[一-龥぀-ゟ゠-ヿ&&[^\p{L}\p{P}\p{S}]]?[一-龥぀-ゟ゠-ヿ&&[\p{L}\p{M}]]+",
    r"|[一-龥぀-ゟ゠-ヿ&&[\p{P}\p{S}]]+",
    r##"|[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"##,
    r"|[^\r\n\p{L}\p{P}\p{S}\p{N}一-龥぀-ゟ゠-ヿ]?[\p{L}\p{M}&&[^一-龥぀-ゟ゠-ヿ]]+",
    r"| ?[\p{P}\p{S}&&[^一-龥぀-ゟ゠-ヿ]]+[\r\n]*",
    r"|\s*[\r\n]+|\s+(?=[\p{N}一-龥぀-ゟ゠-ヿ])|\s+(?!\S)|\s+",
    r"|(?:[一-龥぀-ゟ゠-ヿ](?![一-龥぀-ゟ゠-ヿ&&[\p{L}\p{M}]]))+",
    r"|(?:[^\s一-龥぀-ゟ゠-ヿ\p{N}\p{L}\p{M}\p{P}\p{S}](?![\p{L}\p{M}&&[^一-龥぀-ゟ゠-ヿ]]))+",
);

/// The rules of the pattern.
pub(super) struct DeepSeekRules;

impl Rules for DeepSeekRules {
    #[inline(always)]
    fn starts<S: Simd>(carry: &mut Carry, window: &Window) -> Starts {
        let masks = Masks::of::<S>(window, &mut carry.flags);
        let mut doubt = masks.control & !masks.continuation;

        // Those that are no letters occur seldom.
        let cjk = masks.cjk;
        doubt |= cjk & !masks.letter & !masks.continuation;
        let word = (masks.letter | masks.mark()) & !cjk;
        let space = masks.space | !window.inside;
        let other = !(word | masks.number | space | cjk | masks.control);
        let after_other = after(other, carry.other);

        // A blank before punctuation belongs to it. A single ASCII character of it that is a pre-token so
        // far takes along the ASCII letters after it.
        let lone = other & !after_other & !after(masks.blank, carry.blank);
        let lone_end = to_last_byte(lone & COUNTED, masks.continuation);
        let ascii_prefix = lone_end & !masks.non_ascii;
        let ascii_letter = masks.letter & !masks.non_ascii;
        let first = ascii_letter & (after(ascii_prefix, carry.prefix) | carry.ascii_run);
        // As in `Tails`: the end of each run of ASCII letters that begins with one of `first`.
        let sum = ascii_letter.wrapping_add(first);
        let run_end = (sum | carry.ascii_run) & !ascii_letter;
        let word_start = word & !after(word, carry.word) & !first;
        let space_prefix = after(space & !masks.newline, carry.space & !carry.newline);

        let mut starts = word_start & !space_prefix | run_end & word | lone;
        starts |= number_starts::<3>(carry, &masks, &mut doubt);
        starts |= cjk & !after(cjk, carry.han);

        let tails = Tails::of(carry, masks.newline, after_other);
        let last_space = space & !((space | masks.number | cjk) >> 1);
        let last_space = to_first_byte(last_space, masks.continuation);
        let after_newline = after(masks.newline, carry.newline);
        let line_space = space & !masks.newline & after_newline & !tails.end;
        starts |= space & !after(space, carry.space) & !tails.inside
            | tails.end & space
            | last_space & !masks.newline
            | line_starts(window, &masks, line_space, false);

        carry.keep(&masks, word, space, other, cjk);
        carry.prefix = ascii_prefix >> (STEP - 1);
        carry.ascii_run = last(ascii_letter & !sum);
        Starts {
            mask: starts,
            doubt,
        }
    }

    /// All matches together take linear time, as those of `WordRules` do.
    fn match_length(text: &[u8]) -> usize {
        let classes = classes();
        let (first, first_length) = classes.next(text, 0);
        let (second, _) = classes.next(text, first_length);
        if first & NUMBER != 0 {
            return number_end(text, 3);
        }
        let is_ascii_letter = |byte: &u8| byte.is_ascii_alphabetic();
        if text[0].is_ascii_punctuation() && text.get(1).is_some_and(is_ascii_letter) {
            let n = text[1..].iter().position(|byte| !is_ascii_letter(byte));
            return n.map_or(text.len(), |n| 1 + n);
        }
        // A match is either all of CJK or has none of it.
        let alike = |class: u16| (class ^ first) & CJK == 0;
        let is_word = |class: u16| class & (UPPER | LOWER) != 0 && alike(class);
        let is_other = |class: u16| {
            class & OTHER != 0 && class & (UPPER | LOWER | CONTROL) == 0 && alike(class)
        };
        let takes_along = first & NEWLINE == 0 && first & (SPACE | CONTROL) != 0;
        if is_word(first) || takes_along && is_word(second) {
            return run_end(text, first_length, is_word);
        }
        if is_other(first) || (text[0] == b' ' && is_other(second)) {
            let end = run_end(text, first_length, is_other);
            return match first & CJK {
                0 => classes.run_end(text, end, NEWLINE),
                _ => end,
            };
        }
        if first & SPACE != 0 {
            return white_space_end(text, NUMBER | CJK);
        }
        // Control characters are no match, up to one that a word takes along.
        let mut end = first_length;
        loop {
            let (class, length) = classes.next(text, end);
            let is_match = is_word(classes.next(text, end + length).0);
            if class & CONTROL == 0 || !alike(class) || is_match {
                return end;
            }
            end += length;
        }
    }
}

/// Return the end of the run of characters from `at` on whose classes are `wanted`.
fn run_end(text: &[u8], mut at: usize, wanted: impl Fn(u16) -> bool) -> usize {
    loop {
        let (class, length) = classes().next(text, at);
        if !wanted(class) {
            return at;
        }
        at += length;
    }
}
