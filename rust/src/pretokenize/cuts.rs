//! Places where a text can be cut in two without changing how a regular expression cuts it.
//!
//! An expression reads a text character by character, in matches and in look-aheads. If no way to read
//! goes from a character on to the next one, nor to a test for the end of the text, then a cut between the
//! two changes nothing before it. If a match surely begins with the next one, and no look-behind could
//! have found the one before, it changes nothing after it either.

use super::dialect::{GroupKind, Node};
use super::matcher::{CharSet, only_set};
use super::sure::sure_sets;

/// A set of [`Reader::sets`], as bits.
type Bits = u128;

/// What may be read after what.
#[derive(Debug, Clone)]
pub(super) struct Cuts {
    reader: Reader,
    /// For each ASCII character: the sets that it is in, and those that may be read after it.
    ascii: Vec<(Bits, Bits)>,
}

/// The character sets of an expression, in the order of its text.
#[derive(Debug, Clone, Default)]
struct Reader {
    sets: Vec<CharSet>,
    /// For each set, what may be read next.
    next: Vec<Bits>,
    /// Tests for the end of the text, which have a bit as if they were sets.
    ends: Bits,
    /// Characters with which a match surely begins.
    sure: Vec<CharSet>,
    /// What look-behinds look for.
    behind: Vec<CharSet>,
}

/// How a part of an expression begins and ends.
#[derive(Debug, Clone, Copy, Default)]
struct Part {
    first: Bits,
    last: Bits,
    is_nullable: bool,
}

impl Cuts {
    /// Analyse an expression; None if no place is known to be safe.
    pub(super) fn new(tree: &Node) -> Option<Self> {
        let mut reader = Reader::default();
        reader.part(tree)?;
        reader.sure = sure_sets(tree).iter().map(CharSet::new).collect();
        if reader.sure.is_empty() {
            return None;
        }
        let ascii = (0..128u8).map(|byte| reader.around(byte.into())).collect();
        Some(Cuts { reader, ascii })
    }

    /// Find the last safe place within `text`.
    pub(super) fn last_in(&self, text: &str) -> Option<usize> {
        let mut right: Option<(usize, char)> = None;
        for (i, left) in text.char_indices().rev() {
            if let Some((at, right)) = right
                && self.is_safe(left, right)
            {
                return Some(at);
            }
            right = Some((i, left));
        }
        None
    }

    fn is_safe(&self, left: char, right: char) -> bool {
        let (_, next) = self.around(left);
        let (read, _) = self.around(right);
        next & (read | self.reader.ends) == 0
            && self.reader.sure.iter().any(|set| set.contains(right))
            && !self.reader.behind.iter().any(|set| set.contains(left))
    }

    fn around(&self, c: char) -> (Bits, Bits) {
        match self.ascii.get(c as usize) {
            Some(&around) => around,
            None => self.reader.around(c),
        }
    }
}

impl Reader {
    /// The sets that `c` is in, and those that may be read after it.
    fn around(&self, c: char) -> (Bits, Bits) {
        let (mut within, mut after) = (0, 0);
        for (i, (set, next)) in self.sets.iter().zip(&self.next).enumerate() {
            if set.contains(c) {
                within |= 1 << i;
                after |= next;
            }
        }
        (within, after)
    }

    fn add(&mut self, set: CharSet) -> Option<Bits> {
        let bit = 1u128.checked_shl(self.sets.len() as u32)?;
        self.sets.push(set);
        self.next.push(0);
        Some(bit)
    }

    /// Let each of `first` be read after each of `last`.
    fn join(&mut self, last: Bits, first: Bits) {
        for (i, next) in self.next.iter_mut().enumerate() {
            if last >> i & 1 == 1 {
                *next |= first;
            }
        }
    }

    fn part(&mut self, node: &Node) -> Option<Part> {
        let nothing = Part {
            is_nullable: true,
            ..Part::default()
        };
        Some(match node {
            Node::Empty => nothing,
            Node::Char { set, .. } => {
                let bit = self.add(CharSet::new(set))?;
                Part {
                    first: bit,
                    last: bit,
                    is_nullable: false,
                }
            }
            Node::End => {
                let bit = self.add(CharSet::default())?;
                self.ends |= bit;
                Part {
                    first: bit,
                    ..nothing
                }
            }
            Node::Start => return None,
            Node::Group(GroupKind::Behind | GroupKind::NotBehind, child) => {
                self.behind.push(CharSet::new(only_set(child)?));
                nothing
            }
            Node::Group(GroupKind::Ahead | GroupKind::NotAhead, child) => {
                // What is read ahead is read again afterwards.
                Part {
                    first: self.part(child)?.first,
                    ..nothing
                }
            }
            Node::Group(GroupKind::Plain | GroupKind::Atomic, child)
            | Node::Folded { child, .. } => self.part(child)?,
            Node::Concat(nodes) => {
                let mut whole = nothing;
                for node in nodes {
                    let part = self.part(node)?;
                    self.join(whole.last, part.first);
                    whole = Part {
                        first: whole.first | if whole.is_nullable { part.first } else { 0 },
                        last: part.last | if part.is_nullable { whole.last } else { 0 },
                        is_nullable: whole.is_nullable && part.is_nullable,
                    };
                }
                whole
            }
            Node::Alternatives(nodes) => {
                let mut whole = Part::default();
                for node in nodes {
                    let part = self.part(node)?;
                    whole.first |= part.first;
                    whole.last |= part.last;
                    whole.is_nullable |= part.is_nullable;
                }
                whole
            }
            Node::Repeat(repeat, child) => {
                let part = self.part(child)?;
                if repeat.max != Some(1) {
                    self.join(part.last, part.first);
                }
                Part {
                    is_nullable: part.is_nullable || repeat.min == 0,
                    ..part
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::Pattern;
    use super::super::matcher::tests::some_patterns;

    fn pieces<'t>(pattern: &Pattern, text: &'t str) -> Option<Vec<&'t str>> {
        let mut pieces = Vec::new();
        let done = pattern.split(text, |piece| {
            pieces.push(piece);
            Ok(())
        });
        done.ok().map(|()| pieces)
    }

    fn assert_cuts_change_nothing(pattern: &str, text: &str) -> Result<usize, TestCaseError> {
        let Ok(pattern) = Pattern::new(pattern) else {
            return Ok(0);
        };
        let whole = pieces(&pattern, text).unwrap();
        let mut n_cuts = 0;
        for (end, _) in text.char_indices().skip(1) {
            let cut = pattern.safe_cut(&text.as_bytes()[..end]);
            if cut > 0 {
                n_cuts += 1;
                let (left, right) = text.split_at(cut);
                let mut parts = pieces(&pattern, left).unwrap();
                parts.extend(pieces(&pattern, right).unwrap());
                prop_assert_eq!(&parts, &whole, "{:?} {:?} {}", pattern.as_str(), text, cut);
            }
        }
        Ok(n_cuts)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]
        #[test]
        fn a_cut_changes_no_piece(pattern in some_patterns(), text in "[abékKA1 \n]{0,12}") {
            assert_cuts_change_nothing(&pattern, &text)?;
            // With alternatives for all characters, more places are safe.
            assert_cuts_change_nothing(&format!(r"{pattern}|\S|\s+"), &text)?;
        }
    }

    #[test]
    fn usual_expressions_have_safe_places_at_spaces() {
        let text = "It's 12345 words,\n  and a  few\tmore! \r\n\r\nx";
        for pattern in [
            r"\S+|\s+",
            r"\s?\p{L}+|\p{N}{1,3}|[^\p{L}\p{N}]",
            r"(?i:'s|'re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
            r"\w+|[^\w\s]+|\s",
            r"\b\w+\b|[^\w\s]+|\s|\w",
        ] {
            assert!(
                assert_cuts_change_nothing(pattern, text).unwrap() > 30,
                "{pattern}"
            );
        }
        for pattern in [r"(?<=ab)b|.", r"\b\w+", "x+", "^a|."] {
            assert_eq!(Pattern::new(pattern).unwrap().safe_cut(b"one two a b"), 0);
        }
    }
}
