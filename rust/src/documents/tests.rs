//! Tests of the texts under a key.

use super::field::Field;

fn text_of(key: &str, line: &str) -> Option<String> {
    let mut texts = b"before".to_vec();
    let found = Field::new(key).copy_text(line, &mut texts);
    assert!(texts.starts_with(b"before"));
    let text = String::from_utf8(texts.split_off(6)).unwrap();
    assert!(found || text.is_empty());
    found.then_some(text)
}

#[test]
fn the_text_is_under_a_key_or_a_path() {
    let line = r#" {"a": {"text": "1", "b": [0, {"text": "2\n\u00e4\ud83d\ude00"}]}, "a.c": "3", "text": ""}"#;
    for (key, text) in [
        ("text", Some("")),
        ("a.text", Some("1")),
        ("a.b.1.text", Some("2\nä😀")),
        ("a.c", Some("3")),
        ("a", None),
        ("a.b", None),
        ("a.b.0", None),
        ("a.b.2", None),
        ("a.b.1", None),
        ("a.b.-1.text", None),
        ("", None),
    ] {
        assert_eq!(text_of(key, line).as_deref(), text, "{key}");
    }
}

#[test]
fn of_equal_keys_the_last_counts() {
    for (line, text) in [
        (r#"{"a": "xx", "a": "y"}"#, Some("y")),
        (r#"{"a": "xx", "a": null}"#, None),
        (r#"{"a": {"b": "xx"}, "a": {"b": "y", "c": "z"}}"#, None),
        (r#"{"a": 1, "a": "y"}"#, Some("y")),
    ] {
        assert_eq!(text_of("a", line).as_deref(), text, "{line}");
    }
    let line = r#"{"a": {"b": "1"}, "a.b": "22", "a": {"b": "333"}}"#;
    assert_eq!(text_of("a.b", line).as_deref(), Some("22"));
    let line = r#"{"a": {"b": "1"}, "a": {"b": "22", "b": "333"}}"#;
    assert_eq!(text_of("a.b", line).as_deref(), Some("333"));
}

#[test]
fn what_python_must_judge_has_no_text() {
    let deep = format!(
        r#"{{"b": {}1{}, "a": "x"}}"#,
        "[".repeat(200),
        "]".repeat(200)
    );
    let wide = format!(
        r#"{{"b": [{}1], "a": "x"}}"#,
        "[1e5, null, true, -2, \"\", {}], ".repeat(200)
    );
    for line in [
        r#"{"a": "x""#,
        r#"{"a": "x"} 1"#,
        r#"{"a": "x",}"#,
        r#"["a"]"#,
        r#""a""#,
        "",
        "1",
        r#"{"a": "x", "b": NaN}"#,
        r#"{"a": "\ud800"}"#,
        r#"{"a": "x", "\udc00": 1}"#,
        "{\"a\": \"\u{1}\"}",
        "{\"b\": \"\t\", \"a\": \"x\"}",
        "\u{feff}{\"a\": \"x\"}",
        &deep,
    ] {
        assert_eq!(text_of("a", line), None, "{line}");
    }
    assert_eq!(text_of("a", &wide).as_deref(), Some("x"));
    for (n, text) in [(127, Some("x")), (128, None)] {
        let inside = format!("{}{}", "[".repeat(n), "]".repeat(n));
        let line = format!(r#"{{"\\\"[": "[[\"[\\", "b": {inside}, "a": "x"}}"#);
        assert_eq!(text_of("a", &line).as_deref(), text, "{n}");
    }
    assert_eq!(
        text_of("a", r#"{"a": "x", "b": 1e999}"#).as_deref(),
        Some("x")
    );
}
