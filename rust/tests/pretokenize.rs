//! The hand-written scanner against the regular expression that it stands for, and what every
//! pattern must keep to.

use fancy_regex::Regex;
use gptfast_rust::error::Error;
use gptfast_rust::pretokenize::{Pattern, GPT2_REGEX};
use proptest::prelude::*;

fn split<'t>(pattern: &str, text: &'t str) -> Vec<&'t str> {
    let mut pieces = Vec::new();
    let pattern = Pattern::new(pattern).unwrap();
    pattern
        .split(text, |piece| {
            pieces.push(piece);
            Ok(())
        })
        .unwrap();
    pieces
}

fn split_bytes<'t>(pattern: &str, bytes: &'t [u8]) -> Vec<&'t [u8]> {
    let mut pieces = Vec::new();
    let pattern = Pattern::new(pattern).unwrap();
    pattern
        .split_bytes(bytes, |piece| {
            pieces.push(piece);
            Ok(())
        })
        .unwrap();
    pieces
}

fn regex_matches(text: &str) -> Vec<&str> {
    let regex = Regex::new(GPT2_REGEX).unwrap();
    regex
        .find_iter(text)
        .map(|found| found.unwrap().as_str())
        .collect()
}

/// Text in which the pattern's branches meet one another far more often than in random text.
fn tricky_text() -> impl Strategy<Value = String> {
    let atoms = prop::sample::select(vec![
        "'",
        "s",
        "t",
        "ll",
        "ve",
        "re",
        "d",
        "m",
        "'S",
        " ",
        "  ",
        "\n",
        "\t",
        "\r\n",
        "\u{85}",
        "\u{a0}",
        "\u{3000}",
        "\u{200b}",
        "\u{1c}",
        "a",
        "É",
        "ß",
        "字",
        "ア",
        "\u{301}",
        "1",
        "½",
        "Ⅷ",
        "٣",
        ".",
        "!?",
        "_",
        "🦀",
        "👩‍🔬",
        "\0",
        "\u{feff}",
    ]);
    prop::collection::vec(
        prop_oneof![4 => atoms.prop_map(String::from), 1 => any::<String>()],
        0..20,
    )
    .prop_map(|parts| parts.concat())
}

#[test]
fn every_code_point_has_the_class_that_the_regex_gives_it() {
    // Between two letters a letter joins them, a number or another character stands alone, and a
    // space other than ' ' does too; after two spaces the last one shows whether it is a space.
    let chars: Vec<char> = ('\0'..=char::MAX).collect();
    for block in chars.chunks(1 << 16) {
        let text: String = block.iter().map(|c| format!("a{c}1{c}  {c}")).collect();
        assert!(split("gpt2", &text) == regex_matches(&text));
    }
}

#[test]
fn contractions_and_spaces_by_hand() {
    assert_eq!(
        split("gpt2", "I'll  say: it's\n\n 2 o'clock \t"),
        ["I", "'ll", " ", " say", ":", " it", "'s", "\n\n", " 2", " o", "'", "clock", " \t"]
    );
}

#[test]
fn text_between_matches_is_a_piece() {
    assert_eq!(split(r"\d+", "ab12cd"), ["ab", "12", "cd"]);
    assert_eq!(split(r"x*", "axxb"), ["a", "xx", "b"]);
}

#[test]
fn a_regex_that_gives_up_is_an_error() {
    // The back-reference needs a matcher that backtracks, and this one exponentially often.
    let pattern = Pattern::new(r"(x+x+)+\1y").unwrap();
    let result = pattern.split(&"x".repeat(60), |_| Ok(()));
    assert!(
        matches!(&result, Err(Error::Pattern(m)) if m.contains("gave up")),
        "{result:?}"
    );
}

#[test]
fn invalid_utf8_stands_apart() {
    // A cut-off three-byte character, a lone continuation byte, then a word: the invalid bytes are
    // one piece although they are two errors.
    assert_eq!(
        split_bytes("gpt2", b"ab cd\xe2\x82\xff ef"),
        [&b"ab"[..], b" cd", b"\xe2\x82\xff", b" ef"]
    );
    assert_eq!(
        split_bytes("none", b"\x80\x80a b"),
        [&b"\x80\x80"[..], b"a b"]
    );
    assert!(split_bytes("gpt2", b"").is_empty());
}

proptest! {
    #[test]
    fn scanner_equals_regex(text in tricky_text()) {
        prop_assert_eq!(split("gpt2", &text), regex_matches(&text));
    }

    #[test]
    fn nothing_is_dropped(
        text in tricky_text(),
        pattern in prop::sample::select(vec!["gpt2", "none", r"\p{L}+", r"\b", r"\s(?=\S)"]),
    ) {
        let pieces = split(pattern, &text);
        prop_assert_eq!(&pieces.concat(), &text);
        prop_assert!(pieces.iter().all(|piece| !piece.is_empty()));
    }

    #[test]
    fn bytes_that_are_text_are_cut_as_text(text in tricky_text()) {
        let as_text: Vec<_> = split("gpt2", &text).into_iter().map(str::as_bytes).collect();
        prop_assert_eq!(split_bytes("gpt2", text.as_bytes()), as_text);
    }

    #[test]
    fn no_byte_is_dropped(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
        prop_assert_eq!(split_bytes("gpt2", &bytes).concat(), bytes);
    }
}
