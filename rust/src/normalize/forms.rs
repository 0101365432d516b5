//! The normalization forms of Unicode, and a quick check for text that has them already.
//!
//! `tokenizers` has the tables of Unicode 9.0. Normalization is stable: characters of that version keep their
//! decompositions. So later characters, which it takes for unassigned, are passed through as they are.

use std::iter::once;
use std::sync::OnceLock;

use regex_syntax::hir::{Class, HirKind};
use unicode_normalization::char::{
    canonical_combining_class, compose, decompose_canonical, decompose_compatible,
};
use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfc_quick, is_nfkc_quick};

/// One of the four normalization forms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Nfc,
    Nfd,
    Nfkc,
    Nfkd,
}

/// What the quick check needs of each character: 0 if it stays as it is and begins a segment, its combining
/// class if it stays as it is after a character of a class that isn't higher, [`UNSURE`] if it may change.
///
/// A text is normalized segment by segment: no character of class 0 that surely stays as it is ever joins
/// those before it.
#[derive(Debug)]
pub(super) struct QuickTable {
    /// The characters below U+10000.
    plane: Box<[u8; 1 << 16]>,
    /// The characters beyond, in order, that have another entry than 0.
    beyond: Vec<(u32, u8)>,
    /// Which characters beyond U+FFFF have an entry, by the first 12 of 20 bits.
    blocks: Box<[bool; 0x1100]>,
    /// The ranges of the characters that Unicode 9.0 has.
    known: Vec<(char, char)>,
}

const UNSURE: u8 = u8::MAX;

impl Form {
    fn quick(self, c: char) -> u8 {
        let stays = match self {
            Form::Nfc => is_nfc_quick(once(c)) == IsNormalized::Yes,
            Form::Nfkc => is_nfkc_quick(once(c)) == IsNormalized::Yes,
            Form::Nfd => decomposes_to_itself(c, |c, emit| decompose_canonical(c, emit)),
            Form::Nfkd => decomposes_to_itself(c, |c, emit| decompose_compatible(c, emit)),
        };
        if stays {
            canonical_combining_class(c)
        } else {
            UNSURE
        }
    }

    /// The table of the form, made when it is first needed.
    pub(super) fn table(self) -> &'static QuickTable {
        static TABLES: [OnceLock<QuickTable>; 4] = [const { OnceLock::new() }; 4];
        TABLES[self as usize].get_or_init(|| QuickTable::new(self))
    }

    /// Append the normal form of a segment.
    fn push(self, segment: &str, to: &mut String) {
        // Only its first character can be later than Unicode 9.0.
        let first = segment.chars().next().unwrap_or_default();
        let (first, segment) = match self.table().is_known(first) {
            true => ("", segment),
            false => segment.split_at(first.len_utf8()),
        };
        to.push_str(first);
        match self {
            Form::Nfc => to.extend(segment.nfc()),
            Form::Nfd => to.extend(segment.nfd()),
            Form::Nfkc => to.extend(segment.nfkc()),
            Form::Nfkd => to.extend(segment.nfkd()),
        }
    }

    /// Return the normal form of `text`, and how many characters each one adds: 1 if it is added, 0 if it
    /// replaces one, -n if it replaces n + 1.
    pub(super) fn changes(self, text: &str) -> Vec<(char, isize)> {
        let table = self.table();
        let mut parts: Vec<(u8, char, isize)> = Vec::new();
        let mut pending = 0; // where the marks begin that are not in order yet
        for c in text.chars() {
            let mut is_first = true;
            let mut push = |part: char| {
                let is_known = table.is_known(part);
                let class = if is_known {
                    canonical_combining_class(part)
                } else {
                    0
                };
                if class == 0 {
                    parts[pending..].sort_by_key(|&(class, _, _)| class);
                    pending = parts.len() + 1; // after this one
                }
                parts.push((class, part, isize::from(!is_first)));
                is_first = false;
            };
            match self {
                _ if !table.is_known(c) => push(c),
                Form::Nfc | Form::Nfd => decompose_canonical(c, push),
                Form::Nfkc | Form::Nfkd => decompose_compatible(c, push),
            }
        }
        parts[pending..].sort_by_key(|&(class, _, _)| class);
        match self {
            Form::Nfd | Form::Nfkd => parts
                .into_iter()
                .map(|(_, c, change)| (c, change))
                .collect(),
            Form::Nfc | Form::Nfkc => composed(table, &parts),
        }
    }

    /// Return the normal form of `text`; None if it is `text`.
    pub(super) fn normalize(self, text: &str) -> Option<String> {
        let table = self.table();
        let mut changed: Option<String> = None;
        let mut done = 0;
        let mut segment = String::new();
        let mut from = 0;
        while let Some((start, end)) = table.next_unsure(text, from) {
            segment.clear();
            self.push(&text[start..end], &mut segment);
            if segment != text[start..end] {
                let changed = changed.get_or_insert_with(|| String::with_capacity(text.len()));
                changed.push_str(&text[done..start]);
                changed.push_str(&segment);
                done = end;
            }
            from = end;
        }
        let mut changed = changed?;
        changed.push_str(&text[done..]);
        Some(changed)
    }
}

/// Compose characters that are decomposed and in order: their classes, themselves and their changes.
fn composed(table: &QuickTable, parts: &[(u8, char, isize)]) -> Vec<(char, isize)> {
    let mut result: Vec<(char, isize)> = Vec::new();
    let mut starter: Option<usize> = None;
    let mut last_class = None;
    for &(class, c, change) in parts {
        if let Some(at) = starter
            && last_class.is_none_or(|last| last < class)
            && let Some(whole) = compose(result[at].0, c).filter(|&whole| table.is_known(whole))
        {
            result[at] = (whole, result[at].1 + change - 1);
            continue;
        }
        if class == 0 {
            (starter, last_class) = (Some(result.len()), None);
        } else {
            last_class = Some(class);
        }
        result.push((c, change));
    }
    result
}

fn decomposes_to_itself(c: char, decompose: impl Fn(char, &mut dyn FnMut(char))) -> bool {
    let (mut n, mut is_same) = (0, true);
    decompose(c, &mut |part| {
        n += 1;
        is_same &= part == c;
    });
    n == 1 && is_same
}

impl QuickTable {
    fn new(form: Form) -> Self {
        let mut table = QuickTable {
            plane: vec![0; 1 << 16]
                .try_into()
                .expect("the length is that of the array"),
            beyond: Vec::new(),
            blocks: vec![false; 0x1100]
                .try_into()
                .expect("the length is that of the array"),
            known: assigned_in_unicode_9(),
        };
        for &(start, end) in &table.known.clone() {
            for c in start..=end {
                let entry = form.quick(c);
                let code = u32::from(c);
                if entry == 0 {
                    continue;
                }
                match table.plane.get_mut(code as usize) {
                    Some(place) => *place = entry,
                    None => {
                        table.beyond.push((code, entry));
                        table.blocks[(code >> 8) as usize] = true;
                    }
                }
            }
        }
        table
    }

    /// Whether Unicode 9.0 has the character.
    fn is_known(&self, c: char) -> bool {
        let after = self.known.partition_point(|&(start, _)| start <= c);
        after > 0 && c <= self.known[after - 1].1
    }

    #[inline]
    pub(super) fn entry(&self, c: char) -> u8 {
        let code = u32::from(c);
        match self.plane.get(code as usize) {
            Some(&entry) => entry,
            None if !self.blocks[(code >> 8) as usize] => 0,
            None => {
                let found = self.beyond.binary_search_by_key(&code, |&(code, _)| code);
                found.map_or(0, |at| self.beyond[at].1)
            }
        }
    }

    /// The entry and the length in bytes of the character at a position, which is beyond ASCII.
    #[inline(always)]
    fn entry_at(&self, text: &str, at: usize) -> (u8, usize) {
        match text.as_bytes()[at..] {
            [first @ ..0xe0, second, ..] => {
                let code = u16::from(first & 0x1f) << 6 | u16::from(second & 0x3f);
                (self.plane[usize::from(code)], 2)
            }
            [first @ ..0xf0, second, third, ..] => {
                let [first, second, third] = [first, second, third].map(u16::from);
                let code = first << 12 | (second & 0x3f) << 6 | third & 0x3f;
                (self.plane[usize::from(code)], 3)
            }
            _ => (self.entry(text[at..].chars().next().unwrap_or_default()), 4),
        }
    }

    /// Find the next segment that may change: its start and end. `from` is the start of a segment.
    fn next_unsure(&self, text: &str, from: usize) -> Option<(usize, usize)> {
        let bytes = text.as_bytes();
        let (mut at, mut last) = (from, 0);
        while let Some(&byte) = bytes.get(at) {
            if byte.is_ascii() {
                at += 1;
                // A single space is between the words of any script.
                if bytes.get(at).is_some_and(u8::is_ascii) {
                    at = ascii_end(bytes, at);
                }
                last = 0;
                continue;
            }
            let (entry, length) = self.entry_at(text, at);
            if entry != 0 && (entry == UNSURE || entry < last) {
                let begins = |&(_, c): &(usize, char)| self.entry(c) == 0;
                let start = text[from..at].char_indices().rev().find(begins);
                let end = text[at + length..].char_indices().find(begins);
                return Some((
                    start.map_or(from, |(start, _)| from + start),
                    end.map_or(text.len(), |(end, _)| at + length + end),
                ));
            }
            last = entry;
            at += length;
        }
        None
    }
}

/// The end of a run of ASCII that begins at `at`.
#[inline]
fn ascii_end(bytes: &[u8], mut at: usize) -> usize {
    while let Some(word) = bytes[at..].first_chunk::<16>() {
        let beyond = u128::from_le_bytes(*word) & (u128::MAX / 0xff * 0x80);
        if beyond != 0 {
            return at + (beyond.trailing_zeros() / 8) as usize;
        }
        at += 16;
    }
    let rest = bytes[at..].iter().position(|byte| !byte.is_ascii());
    rest.map_or(bytes.len(), |n| at + n)
}

/// The ranges of the characters that Unicode 9.0 has.
fn assigned_in_unicode_9() -> Vec<(char, char)> {
    let hir = regex_syntax::parse(r"\p{Age=9.0}").expect("regex-syntax has the tables of ages");
    match hir.kind() {
        HirKind::Class(Class::Unicode(class)) => class
            .ranges()
            .iter()
            .map(|range| (range.start(), range.end()))
            .collect(),
        _ => unreachable!("an age is a class of characters"),
    }
}

/// Whether Unicode 9.0 has the character.
pub(super) fn is_in_unicode_9(c: char) -> bool {
    Form::Nfc.table().is_known(c)
}
