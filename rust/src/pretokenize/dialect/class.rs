//! Sets of characters: `[...]`, and the sets that an escape names.

use regex_syntax::hir::{Class, ClassUnicode, ClassUnicodeRange, HirKind};

use super::escape::Escape;
use super::parser::Parser;
use super::{Node, Refusal};

/// A set of characters in three spellings.
#[derive(Debug, Clone)]
pub(super) struct Set {
    /// In the common dialect, within `[...]`; None if it can't be spelled there.
    pub(super) items: Option<String>,
    /// In the common dialect, by itself; None to list its characters.
    pub(super) text: Option<String>,
    /// As the crate `regex-syntax` reads it, by itself and within `[...]`.
    pub(super) definition: String,
}

/// The inside of `[...]` while it is read.
struct Items {
    /// In the common dialect; None if it has no spelling there but the list of its characters.
    text: Option<String>,
    definition: String,
}

impl Items {
    fn push(&mut self, text: Option<&str>, definition: &str) {
        match (&mut self.text, text) {
            (Some(so_far), Some(text)) => so_far.push_str(text),
            (so_far, _) => *so_far = None,
        }
        self.definition.push_str(definition);
    }
}

impl Parser<'_> {
    /// A set whose spelling is the same in both dialects and in `regex-syntax`.
    pub(super) fn set(&self, text: &str) -> Node {
        let set = set_of(text).expect("the spellings in this module are valid");
        let text = text.to_owned();
        Node::Char { text, set }
    }

    /// A single character; `escaped` is its spelling if it has a backslash already.
    pub(super) fn literal(&self, c: char, escaped: Option<String>) -> Result<Node, Refusal> {
        let text = escaped.unwrap_or_else(|| spelled(c, r"\.+*?()|[]{}^$"));
        self.char_node(self.at, Some(text), &code_point(c))
    }

    /// The node of a set that `regex-syntax` reads as `definition`. Its text is `text`, unless case is
    /// ignored and this makes a difference.
    pub(super) fn char_node(
        &self,
        start: usize,
        text: Option<String>,
        definition: &str,
    ) -> Result<Node, Refusal> {
        let read = |definition: &str| {
            set_of(definition).or_else(|why| Refusal::new(start, format!("no valid class: {why}")))
        };
        let mut set = read(definition)?;
        let mut text = text;
        if self.flags.fold {
            let folded = read(&format!("(?i){definition}"))?;
            if folded != set {
                (set, text) = (folded, None);
            }
        }
        if set.ranges().is_empty() {
            return Refusal::new(start, "a class that no character is in: leave it out");
        }
        let text = text.unwrap_or_else(|| listed(&set));
        Ok(Node::Char { text, set })
    }

    /// Parse a class, after its `[`.
    pub(super) fn class(&mut self, start: usize) -> Result<Node, Refusal> {
        let items = self.class_items(start, 0)?;
        self.char_node(start, items.text, &items.definition)
    }

    fn class_items(&mut self, start: usize, depth: usize) -> Result<Items, Refusal> {
        if depth > 16 {
            return Refusal::new(start, "more than 16 classes in each other");
        }
        let mut items = Items {
            text: Some(String::new()),
            definition: String::new(),
        };
        items.push(Some("["), "[");
        if self.take("^") {
            items.push(Some("^"), "^");
        }
        let mut is_first = true;
        loop {
            let at = self.at;
            if !is_first && self.take("]") {
                items.push(Some("]"), "]");
                return Ok(items);
            }
            if let Some(operator) = self.class_operator() {
                items.push(None, operator);
                is_first = false;
                continue;
            }
            let Some(c) = self.next() else {
                return Refusal::new(start, "`[` without `]`: write `\\[` for the character");
            };
            let single = match c {
                '[' if self.peek() == Some(':') && self.rest().contains(":]") => {
                    let definition = self.named_class(at)?;
                    items.push(None, &definition);
                    None
                }
                '[' => {
                    let nested = self.class_items(at, depth + 1)?;
                    items.push(None, &nested.definition);
                    None
                }
                '\\' => match self.escaped(at, true)? {
                    Escape::Char(c, escaped) => Some((c, escaped)),
                    Escape::Set(set) => {
                        items.push(set.items.as_deref(), &set.definition);
                        None
                    }
                    Escape::Node(_) => {
                        return Refusal::new(
                            at,
                            "an escape that stands for no character: take it out of the class",
                        );
                    }
                },
                '-' if !is_first && self.peek() != Some(']') => {
                    return Refusal::new(at, "`-` that joins no two characters: write `\\-`");
                }
                '-' if self.peek() == Some('-') => {
                    return Refusal::new(at, "`--` at the beginning of a class: write `\\-`");
                }
                c => Some((c, None)),
            };
            if let Some(first) = single {
                self.range(at, first, &mut items)?;
            }
            is_first = false;
        }
    }

    /// Take an operator between sets.
    fn class_operator(&mut self) -> Option<&'static str> {
        let known: &[&str] = if self.is_oniguruma() {
            &["&&"]
        } else {
            &["&&", "--", "~~"]
        };
        let at = self.at;
        // At its beginning, `--` is no operator. What it is there is refused.
        let is_first = self.text[..at].ends_with('[') || self.text[..at].ends_with("[^");
        known
            .iter()
            .copied()
            .find(|&operator| !(is_first && operator == "--") && self.take(operator))
    }

    /// Add a character, or the range that it begins.
    fn range(
        &mut self,
        at: usize,
        (first, first_escaped): (char, Option<String>),
        items: &mut Items,
    ) -> Result<(), Refusal> {
        let follows_range = self.rest().starts_with('-')
            && !self.rest().starts_with("-]")
            && (self.is_oniguruma() || !self.rest().starts_with("--"));
        let before = items
            .text
            .as_deref()
            .unwrap_or_default()
            .chars()
            .next_back();
        let first_text = item_text(first, first_escaped, before);
        if !follows_range {
            items.push(Some(&first_text), &code_point(first));
            return Ok(());
        }
        self.at += 1;
        let last_at = self.at;
        let last = match self.next() {
            Some('\\') => match self.escaped(last_at, true)? {
                Escape::Char(c, escaped) => Some((c, escaped)),
                _ => None,
            },
            Some('[') | None => None,
            Some(c) => Some((c, None)),
        };
        let Some((last, last_escaped)) = last else {
            return Refusal::new(last_at - 1, "`-` that joins no two characters: write `\\-`");
        };
        if last < first {
            return Refusal::new(
                at,
                "a range whose end comes before its beginning: swap them",
            );
        }
        let text = format!("{first_text}-{}", item_text(last, last_escaped, None));
        items.push(
            Some(&text),
            &format!("{}-{}", code_point(first), code_point(last)),
        );
        Ok(())
    }

    /// Take `:name:]`, and return what it means in `regex-syntax`.
    fn named_class(&mut self, start: usize) -> Result<String, Refusal> {
        let inside = self.rest()[1..]
            .split_once(":]")
            .map_or("", |(inside, _)| inside);
        self.at += inside.len() + 3;
        if !self.is_oniguruma() {
            return Ok(format!("[:{inside}:]"));
        }
        let (negation, name) = match inside.strip_prefix('^') {
            Some(name) => ("^", name),
            None => ("", inside),
        };
        match posix_class(name) {
            Some(items) => Ok(format!("[{negation}{items}]")),
            None => Refusal::new(
                start,
                "a class name that is not known here: write `\\p{...}`",
            ),
        }
    }
}

/// What a name of POSIX means in Oniguruma.
pub(super) fn posix_class(name: &str) -> Option<&'static str> {
    Some(match name {
        "alpha" => r"\p{Alphabetic}",
        "alnum" => r"\p{Alphabetic}\p{Nd}",
        "digit" => r"\p{Nd}",
        "space" => r"\s",
        "upper" => r"\p{Uppercase}",
        "lower" => r"\p{Lowercase}",
        "punct" => r"\p{P}\p{S}",
        "xdigit" => "0-9A-Fa-f",
        _ => return None,
    })
}

/// A single character as an item of a class, after the character `before`.
fn item_text(c: char, escaped: Option<String>, before: Option<char>) -> String {
    match escaped {
        Some(escaped) => escaped,
        // Two of them are an operator.
        None if matches!(c, '&' | '~') && before == Some(c) => format!(r"\{c}"),
        None => spelled(c, r"\[]-"),
    }
}

/// A character in the common dialect, with a backslash before each of `special`.
fn spelled(c: char, special: &str) -> String {
    match c {
        '\n' => r"\n".into(),
        '\r' => r"\r".into(),
        '\t' => r"\t".into(),
        c if c.is_control() => code_point(c),
        c if special.contains(c) => format!(r"\{c}"),
        c => c.into(),
    }
}

/// A character by its code point, as both dialects and `regex-syntax` read it.
pub(super) fn code_point(c: char) -> String {
    format!(r"\x{{{:X}}}", u32::from(c))
}

/// A set as the list of its characters.
fn listed(set: &ClassUnicode) -> String {
    let spelled = |c: char| {
        if c.is_ascii_alphanumeric() {
            c.into()
        } else {
            code_point(c)
        }
    };
    let mut text = String::from("[");
    for range in set.iter() {
        text.push_str(&spelled(range.start()));
        if range.start() != range.end() {
            text.push('-');
            text.push_str(&spelled(range.end()));
        }
    }
    text + "]"
}

/// The characters of a set, or what is wrong with it.
fn set_of(definition: &str) -> Result<ClassUnicode, String> {
    let hir = regex_syntax::parse(definition).map_err(|error| {
        let message = error.to_string();
        message
            .lines()
            .last()
            .unwrap_or_default()
            .trim_start_matches("error: ")
            .to_owned()
    })?;
    match hir.kind() {
        HirKind::Class(Class::Unicode(set)) => Ok(set.clone()),
        // A set of one character.
        HirKind::Literal(literal) => {
            let c = std::str::from_utf8(&literal.0)
                .ok()
                .and_then(|text| text.chars().next());
            Ok(ClassUnicode::new(c.map(|c| ClassUnicodeRange::new(c, c))))
        }
        _ => Ok(ClassUnicode::empty()),
    }
}
