use fancy_regex::{Regex, RegexInput};
use proptest::prelude::*;

use super::super::dialect::{Dialect, parse};
use super::*;

fn matcher(pattern: &str) -> Matcher {
    Matcher::new(&parse(Dialect::FancyRegex, pattern).unwrap()).unwrap()
}

/// Expressions of all kinds, most of which both dialects share.
pub(in super::super) fn some_patterns() -> impl Strategy<Value = String> {
    let atoms = r"a|b|é| |[ab]|[^a]|\s|\S|\d|.|^|$|\b|(?i:k)|\p{Lu}";
    let atoms: Vec<&str> = atoms.split('|').collect();
    let atom = prop::sample::select(atoms).prop_map(String::from);
    atom.prop_recursive(4, 24, 3, |inner| {
        let quantifiers = vec![
            "*", "+", "?", "{2}", "{1,3}", "*?", "+?", "??", "{1,2}?", "*+", "{0,2}+",
        ];
        let openings = vec!["(?:", "(?>", "(?=", "(?!", "(?<=", "(?<!", "(?i:"];
        prop_oneof![
            (inner.clone(), prop::sample::select(quantifiers))
                .prop_map(|(inner, quantifier)| format!("(?:{inner}){quantifier}")),
            (inner.clone(), prop::sample::select(openings))
                .prop_map(|(inner, opening)| format!("{opening}{inner})")),
            (inner.clone(), inner.clone()).prop_map(|(left, right)| left + &right),
            (inner.clone(), inner).prop_map(|(left, right)| format!("(?:{left}|{right})")),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]
    #[test]
    fn it_matches_what_fancy_regex_matches(pattern in some_patterns(), text in "[abékKA1 \n]{0,12}") {
        let (Ok(regex), Ok(tree)) = (Regex::new(&pattern), parse(Dialect::FancyRegex, &pattern)) else {
            return Ok(());
        };
        let matcher = Matcher::new(&tree).unwrap();
        for (start, _) in text.char_indices() {
            let input = RegexInput::new(&text).from_pos(start).anchored(true);
            let expected = regex.find_input(input).unwrap().map(|found| found.end());
            let end = matcher.match_at(&text, start, || Ok(())).unwrap();
            prop_assert_eq!(end, expected, "{} at {} of {:?}", pattern, start, text);
        }
    }
}

#[test]
fn a_loop_over_characters_takes_one_place() {
    let text = " ".repeat(3_000_000) + "a";
    let end = matcher(r"\s+(?!\S)").match_at(&text, 0, || Ok(()));
    assert_eq!(end.unwrap(), Some(text.len() - 2));
    let end = matcher(r"\s*?(?=a)").match_at(&text, 0, || Ok(()));
    assert_eq!(end.unwrap(), Some(text.len() - 1));
}

#[test]
fn steps_without_end_are_a_failure() {
    let text = "a".repeat(100);
    let failed = matcher("(?:a+a+)+(?!a)b").match_at(&text, 0, || Ok(()));
    assert!(matches!(failed, Err(Failure::TooManySteps)), "{failed:?}");
    let stop = || Err(Error::Interrupted);
    let failed = matcher("(?:a+a+)+(?!a)b").match_at(&text, 0, stop);
    assert!(
        matches!(failed, Err(Failure::Stopped(Error::Interrupted))),
        "{failed:?}"
    );
}

#[test]
fn counts_are_unrolled_within_a_limit() {
    let tree = parse(Dialect::FancyRegex, "(?:(?:ab){1000}){1000}").unwrap();
    assert!(Matcher::new(&tree).is_none());
}
