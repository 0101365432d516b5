//! Characters with which a match surely begins, whatever follows them.

use regex_syntax::hir::ClassUnicode;

use super::dialect::{Greed, GroupKind, Node};

/// A part of an alternative: a character, or a loop over one.
struct Item<'t> {
    /// What it takes; None for an optional part that takes something else.
    set: Option<&'t ClassUnicode>,
    /// The fewest characters that it takes.
    min: u32,
    is_possessive: bool,
}

/// Whether the matches of an expression leave out no character of any text. False if that isn't known.
pub(super) fn matches_everything(tree: &Node) -> bool {
    let mut rest = ClassUnicode::empty();
    for set in sure_sets(tree) {
        rest.union(&set);
    }
    rest.negate();
    rest.ranges().is_empty() && !tree.is_nullable()
}

/// Sets of characters with which an alternative matches whatever follows them.
pub(super) fn sure_sets(tree: &Node) -> Vec<ClassUnicode> {
    match tree {
        Node::Alternatives(nodes) => nodes.iter().flat_map(sure_sets).collect(),
        Node::Group(GroupKind::Plain | GroupKind::Atomic, child) => sure_sets(child),
        Node::Concat(nodes) => sure_sets_of(nodes),
        node => sure_sets_of(std::slice::from_ref(node)),
    }
}

/// Of several items one after another, all but one can match nothing. That one then matches a single
/// character, unless a possessive loop before it takes the character.
fn sure_sets_of(nodes: &[Node]) -> Vec<ClassUnicode> {
    let Some(items) = nodes.iter().map(item).collect::<Option<Vec<_>>>() else {
        return Vec::new();
    };
    let mut sets = Vec::new();
    for (i, one) in items.iter().enumerate() {
        let mut others = items.iter().enumerate().filter(|&(j, _)| j != i);
        if one.min <= 1
            && others.all(|(_, other)| other.min == 0)
            && let Some(set) = one.set
        {
            let mut sure = set.clone();
            let before = items[..i].iter().filter(|item| item.is_possessive);
            for taken in before.filter_map(|item| item.set) {
                sure.difference(taken);
            }
            sets.push(sure);
        }
    }
    sets
}

fn item(node: &Node) -> Option<Item<'_>> {
    match node {
        Node::Char { set, .. } => Some(Item {
            set: Some(set),
            min: 1,
            is_possessive: false,
        }),
        Node::Group(GroupKind::Plain, child) | Node::Folded { child, .. } => item(child),
        Node::Repeat(repeat, child) => {
            let is_possessive = repeat.greed == Greed::Possessive;
            let child = item(child).filter(|_| repeat.max != Some(0));
            let optional = Item {
                set: None,
                min: 0,
                is_possessive: false,
            };
            match child {
                Some(item) => Some(Item {
                    min: item.min.checked_mul(repeat.min)?,
                    is_possessive: item.is_possessive || is_possessive,
                    ..item
                }),
                None => (repeat.min == 0 && !is_possessive).then_some(optional),
            }
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::Pattern;
    use super::super::dialect::{Dialect, parse};
    use super::super::matcher::tests::some_patterns;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]
        #[test]
        fn nothing_is_left_out(
            pattern in some_patterns(), end in prop::sample::select(vec!["", r"|\S|\s+", r"|.?\s|\S++"]),
            text in "[abékKA1 \n]{0,12}",
        ) {
            let pattern = pattern + end;
            let (Ok(regex), Ok(tree)) =
                (fancy_regex::Regex::new(&pattern), parse(Dialect::FancyRegex, &pattern))
            else {
                return Ok(());
            };
            if super::matches_everything(&tree) {
                let found = regex.find_iter(&text).map(|found| found.unwrap().as_str());
                prop_assert_eq!(found.collect::<String>(), text, "{:?}", pattern);
            }
        }
    }

    #[test]
    fn it_is_known_of_usual_expressions() {
        for (pattern, expected) in [
            ("gpt2", true),
            ("none", true),
            ("deepseek", true),
            (r"\S+|\s+", true),
            (r"[^\s]+|\s+", true),
            (r".|\n", true),
            (r"(?s).", true),
            (r"\w+|\W+", true),
            (r"\p{N}{1,3}|\p{L}+|\s+|[^\s\p{L}\p{N}]+", true),
            (r"(?>\p{L}+|\P{L})", true),
            (
                r"\p{L}++(?:'s|'t)?| ?[^\s\p{L}]++[\r\n]*|\s+(?!\S)|\s",
                true,
            ),
            (r"\s?+\S+|\s", true),
            (r"(?:\p{N}{1,3})+|\P{N}", true),
            // Some character, an empty match before others, and those that a possessive loop takes.
            (r"\w+| ", false),
            (r".", false),
            (r"a*|[\s\S]", false),
            (r"(?=a)|[\s\S]", false),
            (r"[\s\S]++a|\S", false),
            (r"\s*+\S{0}[\s\S]", false),
            (r"\S|\s{2,}", false),
            (r"\S|\s+(?!\S)", false),
            (r"\S|\s{0}a?", false),
        ] {
            let pattern = Pattern::new(pattern).unwrap();
            assert_eq!(
                pattern.matches_everything(),
                expected,
                "{}",
                pattern.as_str()
            );
        }
    }
}
