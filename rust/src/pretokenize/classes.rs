//! The Unicode classes in the split patterns, as a set of flags for each code point.

use std::collections::HashMap;
use std::sync::LazyLock;

use regex_syntax::hir::{Class, ClassUnicode, HirKind};

/// `\p{L}`
pub(super) const LETTER: u16 = 1 << 0;
/// `\p{N}`
pub(super) const NUMBER: u16 = 1 << 1;
/// `\s`
pub(super) const SPACE: u16 = 1 << 2;
/// Upper-case and title-case letters, and what o200k counts as both cases
pub(super) const UPPER: u16 = 1 << 3;
/// Lower-case letters, and what o200k counts as both cases: letters without case, and marks
pub(super) const LOWER: u16 = 1 << 4;
/// `\p{Han}`
pub(super) const HAN: u16 = 1 << 5;
/// What DeepSeek cuts out as Chinese and Japanese
pub(super) const CJK: u16 = 1 << 6;
/// What is not in `[\s\p{L}\p{M}\p{N}\p{P}\p{S}]`: control characters, unassigned code points
pub(super) const CONTROL: u16 = 1 << 7;
/// `[^\s\p{L}\p{N}]`
pub(super) const OTHER: u16 = 1 << 8;
/// `[\r\n]`, which are also `SPACE`
pub(super) const NEWLINE: u16 = 1 << 9;

/// The regular expression of each flag. Every character is LETTER, NUMBER, SPACE or OTHER, so no set of
/// flags is empty. Those in the lower eight bits are what a window of the mask scanners needs.
const REGEX_OF_FLAG: [(u16, &str); 10] = [
    (LETTER, r"\p{L}"),
    (NUMBER, r"\p{N}"),
    (SPACE, r"\s"),
    (UPPER, r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"),
    (LOWER, r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"),
    (HAN, r"\p{Han}"),
    (CJK, "[一-龥\u{3040}-ゟ゠-ヿ]"),
    (CONTROL, r"[^\s\p{L}\p{M}\p{N}\p{P}\p{S}]"),
    (OTHER, r"[^\s\p{L}\p{N}]"),
    (NEWLINE, r"[\r\n]"),
];

/// The number of code points whose characters differ in their last byte only.
const PAGE: usize = 64;
const N_CODE_POINTS: usize = char::MAX as usize + 1;

/// The flags of every code point, in pages of 64 code points. Equal pages are stored once.
pub(super) struct Classes {
    ascii: [u16; 128],
    page_of: Vec<u16>,
    pages: Vec<[u16; PAGE]>,
}

/// The table, built on the first call.
#[inline]
pub(super) fn classes() -> &'static Classes {
    static CLASSES: LazyLock<Classes> = LazyLock::new(Classes::new);
    &CLASSES
}

impl Classes {
    fn new() -> Self {
        let mut flat = vec![0; N_CODE_POINTS];
        for (flag, regex) in REGEX_OF_FLAG {
            for (first, last) in code_point_ranges(regex) {
                for flags in &mut flat[first as usize..=last as usize] {
                    *flags |= flag;
                }
            }
        }
        let mut pages = Vec::new();
        let mut seen = HashMap::new();
        let page_of = flat
            .chunks_exact(PAGE)
            .map(|page| {
                *seen.entry(page).or_insert_with(|| {
                    pages.push(page.try_into().expect("chunks_exact gives PAGE flags"));
                    pages.len() as u16 - 1
                })
            })
            .collect();
        let ascii = flat[..128].try_into().expect("there are 128 flags");
        Classes {
            ascii,
            page_of,
            pages,
        }
    }

    /// Return the flags and the length in bytes of the character at `at` in `text`, which is valid UTF-8;
    /// no flags and length 0 at the end of the text.
    #[inline]
    pub(super) fn next(&self, text: &[u8], at: usize) -> (u16, usize) {
        match text.get(at) {
            None => (0, 0),
            Some(&byte) if byte < 0x80 => (self.ascii[usize::from(byte)], 1),
            Some(_) => self.next_beyond_ascii(text, at),
        }
    }

    /// [`Classes::next`] if the character is not ASCII.
    #[inline(always)]
    pub(super) fn next_beyond_ascii(&self, text: &[u8], at: usize) -> (u16, usize) {
        let low_bits = |offset: usize| usize::from(text[at + offset] & 0x3f);
        let first = usize::from(text[at]);
        let (page, in_page, length) = match first {
            0xc0..=0xdf => (first & 0x1f, low_bits(1), 2),
            0xe0..=0xef => ((first & 0x0f) << 6 | low_bits(1), low_bits(2), 3),
            _ => (
                (first & 0x07) << 12 | low_bits(1) << 6 | low_bits(2),
                low_bits(3),
                4,
            ),
        };
        (self.pages[usize::from(self.page_of[page])][in_page], length)
    }

    /// Return the end of the run of characters from `at` on that have one of `flags`.
    #[inline]
    pub(super) fn run_end(&self, text: &[u8], mut at: usize, flags: u16) -> usize {
        loop {
            let (class, length) = self.next(text, at);
            if class & flags == 0 {
                return at;
            }
            at += length;
        }
    }
}

/// The inclusive ranges of code points in a regular expression that is one Unicode class.
fn code_point_ranges(class_regex: &str) -> Vec<(char, char)> {
    let class = unicode_class(class_regex);
    class.iter().map(|r| (r.start(), r.end())).collect()
}

/// The class that a regular expression is.
pub(super) fn unicode_class(class_regex: &str) -> ClassUnicode {
    let hir = regex_syntax::parse(class_regex).expect("the classes here are valid");
    match hir.into_kind() {
        HirKind::Class(Class::Unicode(class)) => class,
        kind => unreachable!("{class_regex} is a Unicode class, not {kind:?}"),
    }
}
