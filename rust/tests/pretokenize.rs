//! The hand-written scanners against the regular expressions that they implement, and what holds for
//! every pattern.

mod common;

use std::sync::LazyLock;
use std::time::Duration;

use common::cpu_time;
use fancy_regex::Regex;
use gptfast_rust::error::Error;
use gptfast_rust::pretokenize::{self, Pattern, SAFE_CUT_REACH, Scanner};
use proptest::prelude::*;

/// The scanners by name, with the regular expression that each implements.
static SCANNERS: LazyLock<Vec<(&str, Regex)>> = LazyLock::new(|| {
    let regex = |scanner: &Scanner| (scanner.name, Regex::new(scanner.regex).unwrap());
    pretokenize::SCANNERS.iter().map(regex).collect()
});

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
    let mut add = |start: usize, end: usize| {
        pieces.push(&bytes[start..end]);
        Ok(())
    };
    Pattern::new(pattern)
        .unwrap()
        .visit_bytes(bytes, &mut add)
        .unwrap();
    pieces
}

fn regex_matches<'t>(regex: &Regex, text: &'t str) -> Vec<&'t str> {
    regex
        .find_iter(text)
        .map(|found| found.unwrap().as_str())
        .collect()
}

/// 2000 cases, unless PROPTEST_CASES sets another number.
fn config() -> ProptestConfig {
    if std::env::var_os("PROPTEST_CASES").is_some() {
        ProptestConfig::default()
    } else {
        ProptestConfig::with_cases(2000)
    }
}

/// Text in which the branches of the patterns meet far more often than in random text.
fn tricky_text() -> impl Strategy<Value = String> {
    let of = |atoms: &'static str| {
        let atoms: Vec<&str> = atoms.split('|').collect();
        prop::sample::select(atoms).prop_map(String::from)
    };
    let atom = prop_oneof![
        // Contractions in either case. When case is ignored, U+017F is an s and U+212A is a k.
        4 => of("'|'|s|S|\u{17f}|t|T|d|m|M|l|L|ll|v|ve|VE|r|re|E|\u{212a}|'s|'Ll|\u{2019}|\u{2019}s"),
        // Letters: lower, upper and title case, modifiers, without case; and marks.
        4 => of("a|z|A|Z|xY|é|É|ß|ж|Ж|ω|Ω|\u{1c5}|\u{1f88}|\u{2b0}|ー|ª|字|ア|א|ก|𝒳|𐐀|𐐨"),
        2 => of("\u{301}|\u{301}\u{302}|\u{e31}|\u{93e}|\u{20dd}|\u{e0100}"),
        2 => of("1|23|4567|½|Ⅷ|٣|३|𝟗|〇"),
        4 => of(" |  |   |\n|\n\n|\r|\r\n|\t|\u{b}|\u{c}|\u{85}|\u{a0}|\u{1680}|\u{2003}|\u{2028}|\u{2029}|\u{202f}|\u{3000}"),
        2 => of(".|,|!?|/|//|_|-|\"|。|€|^|🦀|👩\u{200d}🔬|👍🏽|\u{200b}|\u{feff}|\u{1c}|\0"),
        1 => any::<String>(),
    ];
    prop::collection::vec(atom, 0..20).prop_map(|parts| parts.concat())
}

/// Check every code point. An assigned one appears in several contexts: between upper-case letters and
/// before one (which tells o200k's sets apart), after a digit, after and between spaces, as the whole and
/// as either half of a contraction, between '!' and a newline. Unassigned and private-use code points are
/// all of one class, so a run of them is enough, and much faster.
#[test]
fn every_code_point_is_cut_as_by_the_regex() {
    let unassigned = Regex::new(r"[\p{Cn}\p{Co}]").unwrap();
    let chars: Vec<char> = ('\0'..=char::MAX).collect();
    for block in chars.chunks(1 << 14) {
        let mut text = String::new();
        let mut run = String::new();
        for &c in block {
            if unassigned.is_match(c.encode_utf8(&mut [0; 4])).unwrap() {
                run.push(c);
            } else {
                text += &format!("A{c}A1{c}  {c} '{c}Ab'l{c}'{c}e!{c}\n");
            }
        }
        text += &run;
        std::thread::scope(|scope| {
            for (name, regex) in &*SCANNERS {
                let (text, first) = (&text, u32::from(block[0]));
                scope.spawn(move || {
                    let equal = split(name, text) == regex_matches(regex, text);
                    assert!(equal, "{name}, U+{first:04X} on");
                });
            }
        });
    }
}

#[test]
fn time_is_linear() {
    // Each unit is repeated to 1 and to 4 MB, with an end so that the run is not the whole text.
    let hostile = [
        ("a", "!"),
        ("A", "!"),
        ("A", "a"),
        ("Aʰ", "A"),
        ("AʰA", "!"),
        ("^", "a"),
        (" ", ""),
        (" ", "a"),
        (" ", "\n"),
        (" ", "\na"),
        ("\u{3000}", "a"),
        ("\n", "a"),
        ("\n ", "a"),
        ("\r", " a"),
        ("!\n", "a"),
        ("/\n", " "),
        ("'", "s"),
        ("'s", "!"),
        ("'l", " "),
        ("1", "a"),
        ("\u{301}", "!"),
        ("\u{301}", "A"),
        ("🦀", "a"),
        // What the masks leave to the exact functions.
        ("٣", "a"),
        ("字〇", "a"),
        ("ア・", "a"),
        ("\u{200d}", "a"),
        ("!\u{301}", "a"),
        ("}\n//", "a"),
    ];
    let time = |name: &str, text: &str| {
        let pattern = Pattern::new(name).unwrap();
        let start = cpu_time();
        pattern.split(text, |_| Ok(())).unwrap();
        cpu_time() - start
    };
    for (name, _) in &*SCANNERS {
        for (unit, end) in hostile {
            let once = unit.repeat((1 << 20) / unit.len()) + end;
            let four_times = unit.repeat((4 << 20) / unit.len()) + end;
            // Compare the quickest of several runs, since a busy machine shares its caches.
            let mut quickest = [Duration::MAX; 2];
            let linear = (0..20).any(|_| {
                quickest[0] = quickest[0].min(time(name, &once));
                quickest[1] = quickest[1].min(time(name, &four_times));
                quickest[1] <= 6 * quickest[0]
            });
            assert!(
                linear,
                "{name}: {unit:?} repeated, then {end:?}: {quickest:?}"
            );
        }
    }
}

#[test]
fn contractions_and_spaces_by_hand() {
    assert_eq!(
        split("gpt2", "I'll  say: it's\n\n 2 o'clock \t"),
        [
            "I", "'ll", " ", " say", ":", " it", "'s", "\n\n", " 2", " o", "'", "clock", " \t"
        ]
    );
}

#[test]
fn cl100k_by_hand() {
    assert_eq!(
        split("cl100k", "I'LL see: it'\u{17f} 12345\n\n  (\tok)\n \n"),
        [
            "I", "'LL", " see", ":", " it", "'\u{17f}", " ", "123", "45", "\n\n", " ", " (",
            "\tok", ")\n", " \n"
        ]
    );
    // tiktoken's `\s++$`: white space at the very end is not cut after its last newline.
    assert_eq!(
        split("cl100k", "a\n  b \n  "),
        ["a", "\n", " ", " b", " \n  "]
    );
}

#[test]
fn o200k_by_hand() {
    assert_eq!(
        split(
            "o200k",
            "It's OpenAI'LL, myHTTPServer\n \n  12345 //\n/x \n  "
        ),
        [
            "It's",
            " Open",
            "AI'LL",
            ",",
            " my",
            "HTTPServer",
            "\n \n",
            " ",
            " ",
            "123",
            "45",
            " //\n/",
            "x",
            " \n",
            "  "
        ]
    );
    // A mark counts as both cases. A run of upper case gives its last mark back to the lower case.
    assert_eq!(
        split("o200k", "\u{301}ABC A\u{301}BC A字BCd"),
        ["\u{301}", "ABC", " A\u{301}", "BC", " A字BCd"]
    );
}

#[test]
fn safe_cut_by_hand() {
    let safe_cut = |pattern: &str, text: &[u8]| Pattern::new(pattern).unwrap().safe_cut(text);
    for (name, _) in &*SCANNERS {
        assert_eq!(safe_cut(name, b"one two\n 3"), 7);
        assert_eq!(safe_cut(name, b"one 2.\n3"), 7);
        assert_eq!(safe_cut(name, b"one 2.\n\n3"), 3);
        assert_eq!(safe_cut(name, b"one 2.\n/"), 3);
        assert_eq!(safe_cut(name, b"one two. "), 8);
        assert_eq!(safe_cut(name, b"one two  "), 7);
        assert_eq!(safe_cut(name, b"one two\xff "), 3);
        assert_eq!(safe_cut(name, "字。字、、字。\n".as_bytes()), 18);
        assert_eq!(safe_cut(name, "字。\n字".as_bytes()), 7);
        assert_eq!(safe_cut(name, "\u{3000}字\u{3000}\n字!".as_bytes()), 0);
        assert_eq!(safe_cut(name, b"one\xff\xfftwo"), 0);
        assert_eq!(safe_cut(name, b" two"), 0);
        assert_eq!(safe_cut(name, b""), 0);
        let far = |n: usize| [b"a ", vec![b'.'; n].as_slice()].concat();
        assert_eq!(safe_cut(name, &far(SAFE_CUT_REACH - 2)), 1);
        assert_eq!(safe_cut(name, &far(SAFE_CUT_REACH - 1)), 0);
    }
    for name in ["none", r"(?<=ab)\p{L}+"] {
        assert_eq!(safe_cut(name, b"one two"), 0);
    }
}

#[test]
fn parts_go_on_after_a_run_without_a_place_to_cut() {
    let words = "one two 字。three\n".repeat(10_000);
    for run in [
        100,
        SAFE_CUT_REACH - 7,
        SAFE_CUT_REACH,
        3 * SAFE_CUT_REACH + 5,
    ] {
        let text = format!("{words}{}{words}", "x".repeat(run));
        for (name, _) in &*SCANNERS {
            let pattern = Pattern::new(name).unwrap();
            let parts = pattern.parts(text.as_bytes(), 10_000);
            assert!(parts.concat() == text.as_bytes());
            let longest = parts.iter().map(|part| part.len()).max();
            assert!(
                longest.unwrap() < 10_000 + run + SAFE_CUT_REACH,
                "{longest:?}"
            );
            assert!(
                parts.len() > 2 * (words.len() / 10_000) - 10,
                "{}",
                parts.len()
            );
            let pieces = parts.iter().flat_map(|part| split_bytes(name, part));
            assert!(
                pieces.eq(split_bytes(name, text.as_bytes())),
                "{name}, {run}"
            );
        }
    }
}

#[test]
fn text_between_matches_is_a_piece() {
    assert_eq!(split(r"\d+", "ab12cd"), ["ab", "12", "cd"]);
    assert_eq!(split(r"x*", "axxb"), ["a", "xx", "b"]);
}

#[test]
fn a_regex_that_gives_up_is_an_error() {
    // The look-ahead needs a matcher that backtracks, here exponentially often.
    let pattern = Pattern::new(r"(x+x+)+(?!x)y").unwrap();
    let result = pattern.split(&"x".repeat(60), |_| Ok(()));
    assert!(
        matches!(&result, Err(Error::Pattern(m)) if m.contains("gave up")),
        "{result:?}"
    );
}

#[test]
fn invalid_utf8_stands_apart() {
    // A truncated three-byte character, a lone continuation byte, then a word. The invalid bytes are two
    // errors but one piece.
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
    #![proptest_config(config())]

    #[test]
    fn scanners_equal_their_regexes(text in tricky_text()) {
        for (name, regex) in &*SCANNERS {
            prop_assert_eq!(split(name, &text), regex_matches(regex, &text), "{}", name);
        }
    }

    #[test]
    fn safe_cut_is_safe(
        start in tricky_text(),
        place in prop::sample::select(vec![
            "a ", "a\n", "1 ", ". ", "' ", "\u{301} ", "字。", "字，", "é\n", "a\nb", ".\n字", "'\n's", "1\n1",
            "。\n\u{301}", "",
        ]),
        end in tricky_text(),
    ) {
        // The text around the part is `end` before it and `start` after it.
        let part = format!("{start}{place}{end}");
        let text = format!("{end}{part}{start}");
        for (name, regex) in &*SCANNERS {
            let cut = Pattern::new(name).unwrap().safe_cut(part.as_bytes());
            prop_assert!(cut > start.len() || place.is_empty());
            if cut == 0 {
                continue;
            }
            let (left, right) = text.split_at(end.len() + cut);
            let both = [regex_matches(regex, left), regex_matches(regex, right)].concat();
            prop_assert_eq!(both, regex_matches(regex, &text), "{}", name);
        }
    }

    #[test]
    fn safe_cut_is_safe_among_invalid_bytes(
        left in prop::collection::vec(any::<u8>(), 0..20),
        right in prop::collection::vec(any::<u8>(), 0..20),
    ) {
        let bytes = [left.as_slice(), b"a ", &right].concat();
        for (name, _) in &*SCANNERS {
            let cut = Pattern::new(name).unwrap().safe_cut(&bytes);
            let both = [split_bytes(name, &bytes[..cut]), split_bytes(name, &bytes[cut..])];
            prop_assert_eq!(both.concat(), split_bytes(name, &bytes), "{}", name);
        }
    }

}

proptest! {
    #[test]
    fn nothing_is_dropped(
        text in tricky_text(),
        pattern in prop::sample::select(vec!["none", r"\p{L}+", r"\b", r"\s(?=\S)"]),
    ) {
        let pieces = split(pattern, &text);
        prop_assert_eq!(&pieces.concat(), &text);
        prop_assert!(pieces.iter().all(|piece| !piece.is_empty()));
    }

    #[test]
    fn bytes_that_are_text_are_cut_as_text(text in tricky_text()) {
        for (name, _) in &*SCANNERS {
            let as_text: Vec<_> = split(name, &text).into_iter().map(str::as_bytes).collect();
            prop_assert_eq!(split_bytes(name, text.as_bytes()), as_text);
        }
    }

    #[test]
    fn no_byte_is_dropped(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
        for (name, _) in &*SCANNERS {
            prop_assert_eq!(&split_bytes(name, &bytes).concat(), &bytes);
        }
    }
}
