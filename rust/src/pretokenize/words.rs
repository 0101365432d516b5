//! The split patterns of `cl100k_base` and `o200k_base`, and those derived from them.
//!
//! They cut words of letters, which may take along one character before them; numbers; punctuation with
//! the newlines after it; and white space, up to its last newline.

use std::marker::PhantomData;

use super::classes::{HAN, LETTER, LOWER, NEWLINE, NUMBER, OTHER, SPACE, UPPER, classes};
use super::rules::{
    Tails, after, contraction_end, line_starts, number_end, number_starts, white_space_end,
};
use super::scan::{Carry, Rules, Starts, last};
use super::simd::Simd;
use super::window::{COUNTED, Masks, STEP, Window, to_first_byte, to_last_byte};

/// Which English contractions ('s, 'll...) a pattern knows.
#[derive(PartialEq, Eq)]
pub(super) enum Contractions {
    None,
    /// They are pre-tokens.
    Apart,
    /// They belong to the word before them.
    InWord,
}

/// What marks (`\p{M}`) are.
#[derive(PartialEq, Eq)]
pub(super) enum Marks {
    Punctuation,
    Letters,
    /// Letters, but punctuation goes on with them.
    Both,
}

/// One pattern of the family.
pub(super) trait Words {
    const CONTRACTIONS: Contractions = Contractions::Apart;
    const MARKS: Marks = Marks::Punctuation;
    /// The most numbers in a pre-token.
    const NUMBERS: usize = 3;
    /// Whether lower case ends a word before upper case.
    const CASES: bool = false;
    /// Whether Chinese characters are cut apart.
    const HAN: bool = false;
    /// Whether the newlines after punctuation may be slashes too.
    const SLASHES: bool = false;
    /// Whether white space at the end of a text is one pre-token, even with newlines.
    const WHOLE_END: bool = false;
}

/// The rules of a pattern.
pub(super) struct WordRules<W>(PhantomData<W>);

impl<W: Words> Rules for WordRules<W> {
    #[inline(always)]
    fn starts<S: Simd>(carry: &mut Carry, window: &Window) -> Starts {
        let masks = Masks::of::<S>(window, &mut carry.flags);
        let mut doubt = 0;

        let mut word = masks.letter;
        if W::MARKS != Marks::Punctuation {
            word |= masks.mark();
        }
        let han = if W::HAN { masks.han & masks.letter } else { 0 };
        if W::HAN {
            word &= !masks.han;
            doubt |= masks.han & !masks.letter & !masks.continuation;
        }
        // At the end of the text, a run of white space does not leave its last character to a word. So
        // let it look as if it continued.
        let space = masks.space | !window.inside;
        let other = !(word | masks.number | space | han);
        let after_other = after(other, carry.other);
        let after_word = after(word, carry.word);
        if W::MARKS == Marks::Both {
            doubt |= masks.mark() & !masks.continuation & after_other;
        }

        // A blank before punctuation belongs to it. A word takes along a single character of it that is
        // a pre-token so far, or one of white space.
        let lone = other & !after_other & !after(masks.blank, carry.blank);
        let lone_end = to_last_byte(lone & COUNTED, masks.continuation);
        let prefix = lone_end | space & !masks.newline;
        let numbers = match W::NUMBERS {
            1 => number_starts::<1>(carry, &masks, &mut doubt),
            2 => number_starts::<2>(carry, &masks, &mut doubt),
            _ => number_starts::<3>(carry, &masks, &mut doubt),
        };
        let mut starts = word & !after_word & !after(prefix, carry.prefix) | lone | numbers;
        if W::HAN {
            starts |= han & !after(han, carry.han);
        }

        let tails = Tails::of(carry, masks.newline, after_other);
        if W::SLASHES {
            doubt |= tails.end & masks.slash;
        }
        let last_space = to_first_byte(space & !(space >> 1), masks.continuation);
        let after_newline = after(masks.newline, carry.newline);
        let line_space = space & !masks.newline & after_newline & !tails.end;
        starts |= space & !after(space, carry.space) & !tails.inside
            | tails.end & space
            | last_space & !masks.newline
            | line_starts(window, &masks, line_space, W::WHOLE_END);

        if W::CASES {
            let (upper, lower) = (masks.upper & word, masks.lower & word);
            let (upper_only, lower_only) = (upper & !lower, lower & !upper);
            let both = upper & lower;
            starts |= upper_only & after(lower_only, carry.lower_only);
            doubt |= upper_only & after(both, carry.both_cases);
            carry.lower_only = last(lower_only);
            carry.both_cases = last(both);
        }

        let (mut ends, mut inside) = (carry.contraction_ends, carry.contraction_inside);
        let mut candidates = masks.apostrophe
            & COUNTED
            & match W::CONTRACTIONS {
                Contractions::None => 0,
                Contractions::Apart => lone,
                Contractions::InWord => after_word,
            };
        while candidates != 0 {
            let at = candidates.trailing_zeros() as usize;
            let end = contraction_end(window.bytes, at);
            // Right after a contraction, another one can't belong to a word.
            let follows = W::CONTRACTIONS == Contractions::InWord && ends >> at & 1 != 0;
            if end > at && !follows {
                ends |= 1 << end;
                inside |= (1 << end) - (1 << at);
            }
            candidates &= candidates - 1;
        }
        if W::CONTRACTIONS == Contractions::InWord {
            starts &= !inside;
        }

        carry.keep(&masks, word, space, other, han);
        carry.prefix = lone_end >> (STEP - 1) | last(prefix);
        carry.contraction_ends = ends >> STEP;
        carry.contraction_inside = inside >> STEP;
        Starts {
            mask: starts | ends,
            doubt,
        }
    }

    /// All matches together take linear time: a match reads beyond its end only in white space and in
    /// upper case, where at most two more matches start (see [`white_space_end`] and [`cased_word_end`]).
    fn match_length(text: &[u8]) -> usize {
        let classes = classes();
        let (first, first_length) = classes.next(text, 0);
        if W::HAN && first & HAN != 0 {
            return classes.run_end(text, first_length, HAN);
        }
        if W::CONTRACTIONS == Contractions::Apart {
            let end = contraction_end(text, 0);
            if end > 0 {
                return end;
            }
        }
        // A mark may be a letter, and it may also precede one. Such a pattern tries the latter first, but
        // the word ends at the same place either way.
        if is_word::<W>(first) {
            return word_end::<W>(text, 0);
        }
        if first & NUMBER != 0 {
            return number_end(text, W::NUMBERS);
        }
        let (second, _) = classes.next(text, first_length);
        if first & NEWLINE == 0 && is_word::<W>(second) {
            return word_end::<W>(text, first_length);
        }
        if is_other::<W>(first) || (text[0] == b' ' && is_other::<W>(second)) {
            return other_end::<W>(text, first_length);
        }
        if W::WHOLE_END {
            let run = classes.run_end(text, 0, SPACE);
            if run == text.len() {
                return run;
            }
        }
        white_space_end(text, 0)
    }
}

fn is_word<W: Words>(class: u16) -> bool {
    let letters = match W::MARKS {
        Marks::Punctuation => LETTER,
        Marks::Letters | Marks::Both => UPPER | LOWER,
    };
    class & letters != 0 && !(W::HAN && class & HAN != 0)
}

fn is_other<W: Words>(class: u16) -> bool {
    class & OTHER != 0 && !(W::MARKS == Marks::Letters && class & (UPPER | LOWER) != 0)
}

/// Return the end of a run of punctuation, of which the first character ends at `at`.
fn other_end<W: Words>(text: &[u8], mut at: usize) -> usize {
    loop {
        let (class, length) = classes().next(text, at);
        if !is_other::<W>(class) {
            break;
        }
        at += length;
    }
    let is_tail = |byte: &u8| matches!(byte, b'\r' | b'\n') || W::SLASHES && *byte == b'/';
    let tail = text[at..].iter().position(|byte| !is_tail(byte));
    tail.map_or(text.len(), |length| at + length)
}

/// Return the end of the word whose first letter is at `start`.
fn word_end<W: Words>(text: &[u8], start: usize) -> usize {
    let end = if W::CASES {
        cased_word_end::<W>(text, start)
    } else {
        let mut end = start;
        loop {
            let (class, length) = classes().next(text, end);
            if !is_word::<W>(class) {
                break end;
            }
            end += length;
        }
    };
    match W::CONTRACTIONS {
        Contractions::InWord => contraction_end(text, end),
        _ => end,
    }
}

/// [`word_end`] by the first two branches of o200k's expression, without the contraction.
///
/// Both branches begin with the longest run of UPPER. The first branch needs at least one LOWER after it:
/// the characters that follow, or else, by backtracking, the last one of the run that is in both sets.
/// The rest of the run is then upper case only; the next match reads it again and takes all of it by the
/// second branch.
fn cased_word_end<W: Words>(text: &[u8], start: usize) -> usize {
    let classes = classes();
    let mut upper_end = start;
    let mut both_end = start;
    loop {
        let (class, length) = classes.next(text, upper_end);
        if class & UPPER == 0 || !is_word::<W>(class) {
            break;
        }
        upper_end += length;
        if class & LOWER != 0 {
            both_end = upper_end;
        }
    }
    let mut lower_end = upper_end;
    loop {
        let (class, length) = classes.next(text, lower_end);
        if class & LOWER == 0 || !is_word::<W>(class) {
            break;
        }
        lower_end += length;
    }
    if lower_end == upper_end && both_end > start {
        both_end
    } else {
        lower_end
    }
}
