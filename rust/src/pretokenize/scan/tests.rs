//! The scanners against the regular expressions that they implement, with each level of instructions.

use std::sync::LazyLock;

use fancy_regex::Regex;
use proptest::prelude::*;

use super::super::published::steps;
use super::super::scanner::{SCANNERS, Scanner};
use super::*;

/// Each scanner with its expression, and with those that cut one after another, if there are some.
static REGEXES: LazyLock<Vec<(&Scanner, Vec<Regex>)>> = LazyLock::new(|| {
    let regexes = |texts: &[&str]| texts.iter().map(|text| Regex::new(text).unwrap()).collect();
    let mut all = Vec::new();
    for scanner in &SCANNERS {
        all.push((scanner, regexes(&[scanner.regex])));
        all.extend(steps(scanner).map(|steps| (scanner, regexes(steps))));
    }
    all
});

/// The ends of what the expressions cut, each the pieces of the one before.
fn expected(text: &str, steps: &[Regex]) -> Vec<usize> {
    let mut ends = vec![text.len()];
    for step in steps {
        let mut finer = Vec::new();
        let mut start = 0;
        for end in ends {
            for found in step.find_iter(&text[start..end]) {
                let found = found.unwrap();
                finer.extend([start + found.start(), start + found.end()]);
            }
            finer.push(end);
            start = end;
        }
        ends = finer;
    }
    ends.dedup();
    ends.retain(|&end| end > 0);
    ends
}

fn assert_cuts(text: &str) {
    for (scanner, steps) in &*REGEXES {
        let expected = expected(text, steps);
        for &level in Level::available() {
            let mut ends = Vec::new();
            let mut add = |_, end| {
                ends.push(end);
                Ok(())
            };
            scanner.fills.split_at_level(level, text, &mut add).unwrap();
            if ends != expected {
                let n = ends
                    .iter()
                    .zip(&expected)
                    .take_while(|(a, b)| a == b)
                    .count();
                let start = if n == 0 { 0 } else { expected[n - 1] };
                let near = text[start..].chars().take(40).collect::<String>();
                panic!(
                    "{} with {level:?}: from {start} to {:?}, not {:?}: {near:?}, in {text:?}",
                    scanner.name,
                    ends.get(n),
                    expected.get(n)
                );
            }
        }
    }
}

/// Runs of each kind of character, several windows long, so that all meet at their borders.
fn text() -> impl Strategy<Value = String> {
    prop::string::string_regex(
        "(([a-c]{0,9}|[A-C]{0,4}|[aB]{0,4}|[0-9]{0,8}|'(s|d|LL|Ve|re|x|ſ|sa|dB)?|[ \t\x0b]{0,3}|[\r\n]{0,3}|\
          [ ]{0,20}|[.,!]{0,9}|[!/\n]{0,4}|\n[ ]{0,3}|[.']{1,2}|[\u{a0}\u{85}\u{2028}\u{3000}]{0,3}|[éßж]{0,3}|\
          [ÉЖ]{0,2}|[一字漢]{0,9}|[あア・゛]{0,2}|[ʰªⅷ\u{1c5}]|[²½]|[٣٤]{1,4}|[〇〡⺀]|\u{301}{1,2}|🙂|❤\u{fe0f}|\
          [\u{200d}\0\u{7f}]{1,2}|𝟗|𐐀|𝒳|[€–]) ?){0,60}",
    )
    .unwrap()
}

proptest! {
    #[test]
    fn every_level_cuts_as_the_regular_expressions_do(text in text()) {
        assert_cuts(&text);
    }
}

#[test]
fn long_runs_cross_windows() {
    for (unit, n) in [
        (" ", 200),
        ("a", 200),
        ("1", 100),
        ("字", 60),
        ("!\n", 40),
        ("\n", 100),
    ] {
        for n in 0..n {
            let run = unit.repeat(n);
            for (before, after) in [
                ("a\n", "b"),
                ("!", "\n b"),
                ("A", "'s"),
                ("!\n", ""),
                (" ", "1"),
            ] {
                assert_cuts(&format!("{before}{run}{after}"));
            }
        }
    }
}
