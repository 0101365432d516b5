//! The published spellings of the patterns that have a scanner.
//!
//! The same pattern has been spelled in several ways over time, and files of Hugging Face have them in
//! Oniguruma's dialect. All spellings of a pattern cut every text alike, so one scanner serves them.

use serde_json::Value;

use super::Pattern;
use super::deepseek::DEEPSEEK_STEPS;
use super::dialect::Dialect;
use super::gpt2::GPT2_REGEX;
use super::scanner::{SCANNERS, Scanner, scanner};

/// Further spellings that mean the same in both dialects.
const SPELLINGS: [(&str, &str); 3] = [
    (
        r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
        "gpt2",
    ),
    (
        r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s",
        "gpt2",
    ),
    (
        concat!(
            r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}",
            r"| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",
        ),
        "llama3",
    ),
];

/// Expressions one after another, each of which cuts the pieces of the one before.
const SEQUENCES: [(&[&str], &str); 2] = [
    (&DEEPSEEK_STEPS, "deepseek"),
    (&[r"\p{N}", GPT2_REGEX], "starcoder2"),
];

/// The scanner of the pattern that `text` spells, if it was published.
pub(super) fn published(dialect: Dialect, text: &str) -> Option<&'static Scanner> {
    let own = |scanner: &&Scanner| match dialect {
        Dialect::FancyRegex => scanner.regex == text || scanner.in_oniguruma == text,
        Dialect::Oniguruma => scanner.in_oniguruma == text,
    };
    SCANNERS.iter().find(own).or_else(|| {
        let known = SPELLINGS.iter().find(|(spelling, _)| *spelling == text);
        known.and_then(|(_, name)| scanner(name))
    })
}

/// The pattern that cuts as a `pre_tokenizer` does whose parts are these, if one is known.
pub(super) fn published_sequence(parts: &[&Value]) -> Option<Pattern> {
    let mut steps = Vec::new();
    for (i, part) in parts.iter().enumerate() {
        match expression(part)? {
            // ByteLevel changes the characters that later parts would see.
            _ if part["type"] == "ByteLevel" && i + 1 < parts.len() => return None,
            "" => {}
            // GPT-2's pattern leaves its own pieces whole.
            GPT2_REGEX if steps.last() == Some(&GPT2_REGEX) => {}
            step => steps.push(step),
        }
    }
    let known = match *steps {
        [step] => published(Dialect::Oniguruma, step),
        _ => {
            let known = SEQUENCES.iter().find(|(known, _)| *known == steps);
            known.and_then(|(_, name)| scanner(name))
        }
    };
    known.map(Pattern::Scanner)
}

/// The regular expression that cuts as a part of a `pre_tokenizer` does, into its matches and what is
/// between them; an empty one if the part cuts nothing.
fn expression(part: &Value) -> Option<&str> {
    match part["type"].as_str()? {
        "Split" => {
            let regex = part["pattern"]["Regex"].as_str()?;
            let known = published(Dialect::Oniguruma, regex);
            let is_cut = match (part["behavior"].as_str()?, part["invert"] == true) {
                ("Isolated", false) => true,
                // The text between matches is dropped, of which there is none.
                ("Removed", true) => known.is_some(),
                _ => false,
            };
            let regex = known.map_or(regex, |scanner| scanner.in_oniguruma);
            is_cut.then_some(regex)
        }
        "Digits" => (part["individual_digits"] == true).then_some(r"\p{N}"),
        "ByteLevel" if part["add_prefix_space"] == false => match part["use_regex"] == false {
            true => Some(""),
            false => Some(GPT2_REGEX),
        },
        _ => None,
    }
}

/// The expressions of [`SEQUENCES`] that a scanner cuts by.
#[cfg(test)]
pub(super) fn steps(scanner: &Scanner) -> Option<&'static [&'static str]> {
    let known = SEQUENCES.iter().find(|(_, name)| *name == scanner.name);
    known.map(|(steps, _)| *steps)
}
