use proptest::prelude::*;
use unicode_normalization::UnicodeNormalization;

use super::*;

/// Texts of characters that Unicode 9.0 has: marks, composed ones, Hangul, and others.
fn texts() -> impl Strategy<Value = String> {
    prop::collection::vec(
        prop_oneof![
            "[a-e <=>A\n]{0,20}",
            "[\u{300}-\u{36f}]{1,4}",
            "[\u{c0}-\u{24f}\u{1e00}-\u{1eff}]",
            "[\u{1100}-\u{1112}\u{1161}-\u{1175}\u{11a8}-\u{11c2}가-각]{1,3}",
            "[\u{915}-\u{939}\u{93c}\u{94d}日。\u{3099}か]{1,3}",
            "[\u{1d157}-\u{1d165}\u{fb00}-\u{fb06}\u{2460}-\u{2470}]",
        ],
        0..12,
    )
    .prop_map(|parts| parts.concat())
}

fn normalizer(name: &str) -> Normalizer {
    Normalizer::from_json(&format!(r#"{{"type": "{name}"}}"#)).unwrap()
}

proptest! {
    #[test]
    fn the_quick_check_misses_nothing(text in texts()) {
        for (name, expected) in [
            ("NFC", text.nfc().collect::<String>()),
            ("NFD", text.nfd().collect()),
            ("NFKC", text.nfkc().collect()),
            ("NFKD", text.nfkd().collect()),
        ] {
            let normalizer = normalizer(name);
            let normalized = normalizer.normalize(&text).unwrap();
            prop_assert_eq!(&*normalized, &*expected, "{}", name);
            prop_assert_eq!(matches!(normalized, Cow::Borrowed(_)), expected == text);
            let aligned = normalizer.align(Aligned::new(&text, 0)).unwrap();
            prop_assert_eq!(&aligned.text, &expected);
            prop_assert_eq!(aligned.spans.len(), expected.len());
        }
    }

    #[test]
    fn kept_characters_separate_texts(left in texts(), right in texts()) {
        let normalizer = normalizer("NFC");
        if right.chars().next().is_some_and(|c| normalizer.keeps(c)) {
            let parts = [&left, &right].map(|part| normalizer.normalize(part).unwrap());
            let whole = [left.as_str(), &right].concat();
            prop_assert_eq!(parts.concat(), normalizer.normalize(&whole).unwrap());
        }
    }
}

#[test]
fn later_characters_than_those_of_unicode_9_stay() {
    // These are composed since Unicode 16.
    let text = "\u{113c2}\u{113c2} \u{16121} \u{1aeb}\u{316}";
    for name in ["NFC", "NFD"] {
        assert_eq!(normalizer(name).normalize(text).unwrap(), text);
    }
}
