//! The Unicode classes in the split patterns, as a set of flags for each code point.

use std::collections::HashMap;
use std::sync::LazyLock;

use regex_syntax::hir::{Class, HirKind};

/// `\p{L}`
pub(super) const LETTER: u8 = 1 << 0;
/// `\p{N}`
pub(super) const NUMBER: u8 = 1 << 1;
/// `\s`
pub(super) const SPACE: u8 = 1 << 2;
/// `[^\s\p{L}\p{N}]`
pub(super) const OTHER: u8 = 1 << 3;
/// `[\r\n]`, which are also `SPACE`
pub(super) const NEWLINE: u8 = 1 << 4;
/// Upper-case and title-case letters, and what o200k counts as both cases
pub(super) const UPPER: u8 = 1 << 5;
/// Lower-case letters, and what o200k counts as both cases: letters without case, and marks
pub(super) const LOWER: u8 = 1 << 6;

/// The regular expression of each flag. Every character has exactly one of the first four flags, so no
/// set of flags is empty.
const REGEX_OF_FLAG: [(u8, &str); 7] = [
    (LETTER, r"\p{L}"),
    (NUMBER, r"\p{N}"),
    (SPACE, r"\s"),
    (OTHER, r"[^\s\p{L}\p{N}]"),
    (NEWLINE, r"[\r\n]"),
    (UPPER, r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"),
    (LOWER, r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"),
];

const PAGE: usize = 256;
const N_CODE_POINTS: usize = char::MAX as usize + 1;

/// The flags of every code point, in pages of 256 code points. Equal pages are stored once.
pub(super) struct Classes {
    ascii: [u8; 128],
    page_of: Vec<u16>,
    pages: Vec<[u8; PAGE]>,
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

    #[inline]
    fn of_code_point(&self, code_point: usize) -> u8 {
        self.pages[usize::from(self.page_of[code_point / PAGE])][code_point % PAGE]
    }

    /// Return the flags and the length in bytes of the character at `at` in `text`, which is valid UTF-8;
    /// no flags and length 0 at the end of the text.
    #[inline]
    pub(super) fn next(&self, text: &[u8], at: usize) -> (u8, usize) {
        match text.get(at) {
            None => (0, 0),
            Some(&byte) if byte < 0x80 => (self.ascii[usize::from(byte)], 1),
            Some(_) => self.next_beyond_ascii(text, at),
        }
    }

    fn next_beyond_ascii(&self, text: &[u8], at: usize) -> (u8, usize) {
        let low_bits = |offset: usize| usize::from(text[at + offset] & 0x3f);
        let first = usize::from(text[at]);
        let (code_point, length) = match first {
            0xc0..=0xdf => ((first & 0x1f) << 6 | low_bits(1), 2),
            0xe0..=0xef => ((first & 0x0f) << 12 | low_bits(1) << 6 | low_bits(2), 3),
            _ => (
                (first & 0x07) << 18 | low_bits(1) << 12 | low_bits(2) << 6 | low_bits(3),
                4,
            ),
        };
        (self.of_code_point(code_point), length)
    }

    /// Return the end of the run of characters from `at` on that have one of `flags`.
    #[inline]
    pub(super) fn run_end(&self, text: &[u8], mut at: usize, flags: u8) -> usize {
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
    let hir = regex_syntax::parse(class_regex).expect("the classes above are valid");
    match hir.kind() {
        HirKind::Class(Class::Unicode(class)) => {
            class.iter().map(|r| (r.start(), r.end())).collect()
        }
        kind => unreachable!("{class_regex} is a Unicode class, not {kind:?}"),
    }
}
