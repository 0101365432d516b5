//! What a backslash begins.

use super::class::{Set, code_point, posix_class};
use super::parser::Parser;
use super::{Dialect, Node, Refusal};

/// What an escape stands for.
pub(super) enum Escape {
    /// A character, and its spelling in the common dialect if it stays an escape.
    Char(char, Option<String>),
    Set(Set),
    Node(Node),
}

/// The word characters of `fancy-regex`: those of Unicode's recommendation.
const WORD: &str = r"\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\x{200C}\x{200D}";

/// The word characters of Oniguruma: without joiners, but outside of a class with ², ³, ¹, ¼, ½ and ¾.
const ONIGURUMA_WORD: &str = r"\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\x{B2}\x{B3}\x{B9}\x{BC}-\x{BE}";
const ONIGURUMA_WORD_IN_CLASS: &str = r"\p{Alphabetic}\p{M}\p{Nd}\p{Pc}";

const HEX_DIGIT: &str = "0-9A-Fa-f";

/// Both dialects know these properties by these names, and agree on their characters.
const PROPERTIES: &str = include_str!("properties.txt");

impl Parser<'_> {
    /// Parse an escape outside of a class, after its backslash.
    pub(super) fn escape(&mut self, start: usize) -> Result<Node, Refusal> {
        match self.escaped(start, false)? {
            Escape::Char(c, escaped) => self.literal(c, escaped),
            Escape::Set(set) => self.char_node(start, set.text, &set.definition),
            Escape::Node(node) => Ok(node),
        }
    }

    /// Parse an escape, after its backslash.
    pub(super) fn escaped(&mut self, start: usize, in_class: bool) -> Result<Escape, Refusal> {
        let Some(letter) = self.next() else {
            return Refusal::new(start, "`\\` at the end: write `\\\\` for the character");
        };
        let word = match (self.dialect, in_class) {
            (Dialect::FancyRegex, _) => WORD,
            (Dialect::Oniguruma, false) => ONIGURUMA_WORD,
            (Dialect::Oniguruma, true) => ONIGURUMA_WORD_IN_CLASS,
        };
        Ok(match letter {
            'n' => Escape::Char('\n', None),
            'r' => Escape::Char('\r', None),
            't' => Escape::Char('\t', None),
            'f' => Escape::Char('\x0c', None),
            'v' => Escape::Char('\x0b', None),
            'a' => Escape::Char('\x07', None),
            'e' => Escape::Char('\x1b', None),
            'x' | 'u' | 'U' => {
                let c = self.hex(start, letter)?;
                Escape::Char(c, (!c.is_ascii_alphanumeric()).then(|| code_point(c)))
            }
            'd' | 'D' | 's' | 'S' => Escape::Set(Set::named(format!(r"\{letter}"))),
            'w' => Escape::Set(Set::of_items(word)),
            'W' => Escape::Set(Set::not_items(word)),
            'h' => Escape::Set(Set::of_items(HEX_DIGIT)),
            'H' => Escape::Set(Set::not_items(HEX_DIGIT)),
            'p' | 'P' => Escape::Set(self.property(start, letter == 'P')?),
            _ if letter.is_ascii_punctuation() || !letter.is_ascii() || letter == ' ' => {
                if matches!(letter, '<' | '>') && !in_class && !self.is_oniguruma() {
                    return Refusal::new(
                        start,
                        format!("`\\{letter}`: write `\\b`, or `{letter}` for the character"),
                    );
                }
                // With a backslash, fancy-regex takes < and > as the edges of a word.
                let keeps = letter.is_ascii_punctuation() && !matches!(letter, '<' | '>');
                let escaped = keeps.then(|| format!(r"\{letter}"));
                Escape::Char(letter, escaped)
            }
            _ if in_class => return self.unknown(start, letter),
            'A' => Escape::Node(Node::Start),
            'z' => Escape::Node(Node::End),
            'Z' if self.is_oniguruma() => Escape::Node(self.trusted(r"(?=\n?\z)")),
            'Z' => Escape::Node(self.trusted(r"(?=\n*\z)")),
            'b' if !self.rest().starts_with('{') => Escape::Node(self.trusted(&word_edge(word))),
            'B' if !self.rest().starts_with('{') => Escape::Node(self.trusted(&no_word_edge(word))),
            'N' => Escape::Node(self.set(r"[^\n]")),
            'O' => Escape::Node(self.set(r"[\s\S]")),
            'R' => {
                let newline = r"(?>\r\n|[\n\x{B}\x{C}\r\x{85}\x{2028}\x{2029}])";
                Escape::Node(self.trusted(newline))
            }
            _ => return self.unknown(start, letter),
        })
    }

    fn unknown<T>(&self, start: usize, letter: char) -> Result<T, Refusal> {
        let message = match letter {
            '1'..='9' | 'k' | 'g' => "a reference to a group: write out what it repeats".into(),
            '0' => "`\\0`: write `\\x{0}`".into(),
            'G' | 'K' => format!("`\\{letter}`, which moves where a match begins: leave it out"),
            'b' => {
                "`\\b` here: write `\\b` outside of a class, or `\\x{8}` for the backspace".into()
            }
            'X' => "`\\X`: write `\\P{M}\\p{M}*`".into(),
            'Q' | 'E' => "`\\Q...\\E`: write a backslash before each special character".into(),
            _ => format!(
                "`\\{letter}`, which the dialects of regular expressions do not share: write the \
                 character, or its code point as `\\x{{...}}`"
            ),
        };
        Refusal::new(start, message)
    }

    /// Parse a code point, after `\x`, `\u` or `\U`.
    fn hex(&mut self, start: usize, letter: char) -> Result<char, Refusal> {
        let n_digits = match letter {
            'x' => 2,
            'u' => 4,
            _ => 8,
        };
        let may_brace = letter == 'x' || !self.is_oniguruma();
        let digits = match self.rest().strip_prefix('{').filter(|_| may_brace) {
            Some(rest) => rest
                .split_once('}')
                .map(|(digits, _)| (digits, digits.len() + 2)),
            None => self.rest().get(..n_digits).map(|digits| (digits, n_digits)),
        };
        let is_known = letter != 'U' || !self.is_oniguruma();
        let is_hex = |digits: &str| digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        let value = digits
            .filter(|(digits, _)| is_known && is_hex(digits))
            .and_then(|(digits, length)| {
                let c = char::from_u32(u32::from_str_radix(digits, 16).ok()?)?;
                // Oniguruma takes two digits as a byte of UTF-8.
                (!(self.is_oniguruma() && length == 2 && !c.is_ascii())).then_some((c, length))
            });
        let Some((c, length)) = value else {
            return Refusal::new(
                start,
                format!("`\\{letter}` without a code point: write `\\x{{...}}`"),
            );
        };
        self.at += length;
        Ok(c)
    }

    /// Parse the name of a property, after `\p` or `\P`.
    fn property(&mut self, start: usize, is_negated: bool) -> Result<Set, Refusal> {
        let (name, length) = match self.rest().strip_prefix('{') {
            Some(rest) => match rest.split_once('}') {
                Some((name, _)) => (name, name.len() + 2),
                None => return Refusal::new(start, "a property without `}`: write `\\p{...}`"),
            },
            None => match self.peek().filter(|_| !self.is_oniguruma()) {
                Some(letter) => (&self.rest()[..letter.len_utf8()], letter.len_utf8()),
                None => return Refusal::new(start, "a property without braces: write `\\p{...}`"),
            },
        };
        self.at += length;
        let (name, is_negated) = match name.strip_prefix('^') {
            Some(name) if self.is_oniguruma() => (name, !is_negated),
            _ => (name, is_negated),
        };
        // In Oniguruma, `\p{Punct}` has no symbols, but `[[:punct:]]` has.
        let name = if name.eq_ignore_ascii_case("punct") {
            "P"
        } else {
            name
        };
        let letter = if is_negated { 'P' } else { 'p' };
        if let Some(shared) = shared_property(name, self.dialect) {
            return Ok(Set::named(format!(r"\{letter}{{{shared}}}")));
        }
        let unknown = "a property that is not known here: write the name of a general category or of \
                       a script, such as `\\p{Lu}` or `\\p{Han}`";
        if self.is_oniguruma() {
            let Some(items) = posix_class(&name.to_ascii_lowercase()) else {
                return Refusal::new(start, unknown);
            };
            return Ok(if is_negated {
                Set::not_items(items)
            } else {
                Set::of_items(items)
            });
        }
        let definition = format!(r"\{letter}{{{name}}}");
        if regex_syntax::parse(&definition).is_err() {
            return Refusal::new(start, unknown);
        }
        Ok(Set {
            items: None,
            text: None,
            definition,
        })
    }
}

fn word_edge(word: &str) -> String {
    format!("(?:(?<=[{word}])(?![{word}])|(?<![{word}])(?=[{word}]))")
}

fn no_word_edge(word: &str) -> String {
    format!("(?:(?<=[{word}])(?=[{word}])|(?<![{word}])(?![{word}]))")
}

/// The escape of `fancy-regex` that `text` of the common dialect translates.
pub(super) fn word_escape(text: &str) -> Option<&'static str> {
    if !text.contains(WORD) {
        return None;
    }
    let escapes = [
        (r"\w", format!("[{WORD}]")),
        (r"\W", format!("[^{WORD}]")),
        (r"\b", word_edge(WORD)),
        (r"\B", no_word_edge(WORD)),
    ];
    let known = escapes.into_iter().find(|(_, common)| common == text);
    known.map(|(escape, _)| escape)
}

impl Set {
    /// A set that one escape names, in a class or not.
    fn named(escape: String) -> Self {
        Set {
            items: Some(escape.clone()),
            text: Some(escape.clone()),
            definition: escape,
        }
    }

    fn of_items(items: &str) -> Self {
        let class = format!("[{items}]");
        Set {
            items: Some(items.into()),
            text: Some(class.clone()),
            definition: class,
        }
    }

    fn not_items(items: &str) -> Self {
        let class = format!("[^{items}]");
        Set {
            items: None,
            text: Some(class.clone()),
            definition: class,
        }
    }
}

/// The name of a property that both dialects know.
fn shared_property(name: &str, dialect: Dialect) -> Option<&'static str> {
    let loose = |name: &str| name.replace([' ', '_', '-'], "").to_ascii_lowercase();
    let mut wanted = loose(name);
    if dialect == Dialect::FancyRegex {
        for prefix in ["script=", "sc=", "generalcategory=", "gc="] {
            if let Some(rest) = wanted.strip_prefix(prefix) {
                wanted = rest.to_owned();
                break;
            }
        }
    }
    PROPERTIES
        .split_whitespace()
        .find(|known| loose(known) == wanted)
}
