//! GPT-2's split pattern, and StarCoder 2's, which cuts numbers apart before.

use std::marker::PhantomData;

use super::rules::after;
use super::scan::{Carry, Rules, Starts, last};
use super::simd::Simd;
use super::window::{COUNTED, Masks, STEP, Window, to_first_byte};

/// The split pattern that was published with GPT-2.
pub const GPT2_REGEX: &str =
    r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

/// Each number is a pre-token, and the text before it ends there.
pub(super) const STARCODER2_REGEX: &str = concat!(
    r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+",
    r"|\s+(?=\p{N})|\s+(?!\S)|\s+",
);

/// The rules of both. `NUMBERS_APART` is StarCoder 2's way.
pub(super) struct Gpt2Rules<const NUMBERS_APART: bool>(PhantomData<()>);

impl<const NUMBERS_APART: bool> Rules for Gpt2Rules<NUMBERS_APART> {
    #[inline(always)]
    fn starts<S: Simd>(carry: &mut Carry, window: &Window) -> Starts {
        let masks = Masks::of::<S>(window, &mut carry.flags);
        let (letter, number) = (masks.letter, masks.number);
        // At the end of the text, a run of white space does not leave its last character to a word. So let
        // it look as if it continued.
        let space = masks.space | !window.inside;
        let other = !(letter | number | space);

        let after_other = after(other, carry.other);
        let after_blank = after(masks.blank, carry.blank);
        // A run of letters, numbers or others begins. A blank right before it belongs to it.
        let mut runs = letter & !after(letter, carry.word) | other & !after_other;
        if !NUMBERS_APART {
            runs |= number & !after(number, carry.number);
        }
        // A run of white space begins with its first character, and another pre-token with its last
        // one, which `\s+(?!\S)` leaves to what follows.
        let mut last_spaces = space & !(space >> 1);
        if NUMBERS_APART {
            last_spaces &= !(number >> 1);
        }
        let last_spaces = to_first_byte(last_spaces, masks.continuation);
        let mut starts = runs & !after_blank | space & !after(space, carry.space) | last_spaces;
        if NUMBERS_APART {
            starts |= number & !masks.continuation;
        }

        let (mut ends, mut inside) = (carry.contraction_ends, carry.contraction_inside);
        let mut candidates = masks.apostrophe & !after_other & !after_blank & COUNTED;
        while candidates != 0 {
            let at = candidates.trailing_zeros() as usize;
            if let Some(length) = contraction(&window.bytes[at..]) {
                inside |= 2 << at;
                ends |= 1 << (at + length);
            }
            candidates &= candidates - 1;
        }

        carry.word = last(letter);
        carry.number = last(number);
        carry.space = last(space);
        carry.other = last(other);
        carry.blank = last(masks.blank);
        carry.contraction_ends = ends >> STEP;
        carry.contraction_inside = inside >> STEP;
        Starts {
            mask: starts & !inside | ends,
            doubt: 0,
        }
    }

    fn match_length(_: &[u8]) -> usize {
        unreachable!("the masks leave nothing in doubt")
    }
}

/// Return the length of the English contraction at the start of `text`: 's 'd 'm 't 'll 've 're.
fn contraction(text: &[u8]) -> Option<usize> {
    match text {
        [b'\'', b's' | b'd' | b'm' | b't', ..] => Some(2),
        [b'\'', b'l', b'l', ..] | [b'\'', b'v' | b'r', b'e', ..] => Some(3),
        _ => None,
    }
}
