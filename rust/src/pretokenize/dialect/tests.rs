use super::*;

fn common(dialect: Dialect, text: &str) -> String {
    parse(dialect, text).unwrap().text()
}

#[test]
fn what_means_the_same_in_both_dialects_stays_as_it_is() {
    for text in [
        r"\S+|\s+(?!\S)|a++b*?c{2,3}[^\r\n\p{L}]?",
        r"(?i:'s|'t|[ab])|(?>a|b)(?<!\p{Han})\Aa\z",
        r"[!-/:@\[\\\]^_`{|}~\-]\.\x{DF}",
    ] {
        assert_eq!(common(Dialect::FancyRegex, text), text);
        assert_eq!(common(Dialect::Oniguruma, text), text);
    }
}

#[test]
fn what_means_something_else_is_translated() {
    for (text, fancy, oniguruma) in [
        ("a{1,3}+", "(?>a{1,3})", "(?:a{1,3})+"),
        ("a{2}?", "a{2}", "(?:a{2})?"),
        ("^a$", r"\Aa\z", r"(?:\A|(?<=\n)(?!\z))a(?![^\n])"),
        ("(?m:.)", r"(?:[^\n])", r"(?:[\s\S])"),
        ("a(?i)k|b", r"a[Kk\x{212A}]|[Bb]", r""),
        (r"\h", "[0-9A-Fa-f]", "[0-9A-Fa-f]"),
        ("[a-e&&[^c]]", "[a-bd-e]", "[a-bd-e]"),
    ] {
        for (dialect, expected) in [
            (Dialect::FancyRegex, fancy),
            (Dialect::Oniguruma, oniguruma),
        ] {
            if !expected.is_empty() {
                assert_eq!(common(dialect, text), expected);
            }
        }
    }
}

#[test]
fn a_refusal_has_its_place() {
    for (dialect, text, at) in [
        (Dialect::FancyRegex, r"a\G", 1),
        (Dialect::FancyRegex, "ab(?:a*)*", 8),
        (Dialect::FancyRegex, "{", 0),
        (Dialect::Oniguruma, "ab(?i:ss)", 2),
        (Dialect::Oniguruma, r"a\p{Nope}", 1),
        (Dialect::Oniguruma, "a)", 1),
        (Dialect::Oniguruma, "a[b", 1),
    ] {
        assert_eq!(parse(dialect, text).unwrap_err().at, at, "{text}");
    }
    let deep = "(".repeat(100);
    assert!(parse(Dialect::Oniguruma, &deep).is_err());
}
