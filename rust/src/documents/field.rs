//! The text under a key of a JSON object. The rest of the object is checked, but not kept.

use std::fmt;
use std::ops::Range;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// Objects that are nested more deeply are left to Python, whose limit is higher and may be changed.
const MAX_DEPTH: usize = 128;

/// A key, or a path of keys and indices such as `meta.text` or `turns.0.text`.
///
/// A key of the outermost object that is spelled like the path goes first. Of equal keys the last counts.
pub struct Field {
    key: String,
    path: Vec<String>,
}

/// Where a text is among the bytes that texts are appended to; None if there is no string.
type Found = Option<Range<usize>>;

impl Field {
    /// Divide `key` at its dots.
    pub fn new(key: &str) -> Self {
        Field {
            key: key.to_owned(),
            path: key.split('.').map(str::to_owned).collect(),
        }
    }

    /// Append the text of the object that `line` consists of, and return whether there is one.
    ///
    /// There is none, either, if `line` is anything but JSON as RFC 8259 has it, with a key or a text that
    /// no UTF-8 can hold (a lone surrogate), or if it is nested very deeply. Otherwise Python's `json`
    /// finds the same text.
    pub fn copy_text(&self, line: &str, texts: &mut Vec<u8>) -> bool {
        let before = texts.len();
        let found = self.find(line, texts).filter(|_| is_flat(line));
        let n_bytes = found.map(|found| {
            let n_bytes = found.len();
            texts.copy_within(found, before); // equal keys may have left other texts around it
            n_bytes
        });
        texts.truncate(before + n_bytes.unwrap_or(0));
        n_bytes.is_some()
    }

    fn find(&self, line: &str, texts: &mut Vec<u8>) -> Found {
        let mut json = serde_json::Deserializer::from_str(line);
        let object = Value {
            key: Some(&self.key),
            path: &self.path,
            texts,
        };
        let found = json.deserialize_map(object).ok()?;
        json.end().ok()?;
        found
    }
}

/// Whether valid JSON is nested less deeply than Python's `json` reads.
fn is_flat(line: &str) -> bool {
    let is_open = |byte: u8| usize::from(matches!(byte, b'{' | b'['));
    let n_open: usize = line.bytes().map(is_open).sum(); // a loop without branches
    n_open <= MAX_DEPTH || depth(line) <= MAX_DEPTH
}

/// How many brackets of valid JSON are open at the same time, at most.
fn depth(line: &str) -> usize {
    let (mut open, mut most, mut is_in_string) = (0usize, 0, false);
    let mut bytes = line.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => is_in_string = !is_in_string,
            b'\\' => drop(bytes.next()), // what it escapes, inside a string
            b'{' | b'[' if !is_in_string => open += 1,
            b'}' | b']' if !is_in_string => open -= 1,
            _ => {}
        }
        most = most.max(open);
    }
    most
}

/// A value in which the text is looked for.
struct Value<'a> {
    /// The key that goes before the path, in the outermost object.
    key: Option<&'a str>,
    /// Where the text is inside; empty if the value is to be the text.
    path: &'a [String],
    texts: &'a mut Vec<u8>,
}

impl<'de> DeserializeSeed<'de> for Value<'_> {
    type Value = Found;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Found, D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Value<'_> {
    type Value = Found;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_str<E>(self, text: &str) -> Result<Found, E> {
        if !self.path.is_empty() {
            return Ok(None);
        }
        let start = self.texts.len();
        self.texts.extend_from_slice(text.as_bytes());
        Ok(Some(start..self.texts.len()))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Found, A::Error> {
        let Some((first, rest)) = self.path.split_first() else {
            while object.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
            return Ok(None);
        };
        let texts = self.texts;
        let (mut by_key, mut by_path) = (None, None);
        while let Some(key) = object.next_key_seed(Key(self.key, first))? {
            let value = |path, texts| Value {
                key: None,
                path,
                texts,
            };
            match key {
                Kind::Whole => by_key = Some(object.next_value_seed(value(&[], texts))?),
                Kind::First => by_path = object.next_value_seed(value(rest, texts))?,
                Kind::Other => drop(object.next_value::<IgnoredAny>()?),
            }
        }
        Ok(by_key.unwrap_or(by_path))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Found, A::Error> {
        let mut found = None;
        if let Some((first, rest)) = self.path.split_first()
            && let Some(index) = index_of(first)
        {
            for _ in 0..index {
                if list.next_element::<IgnoredAny>()?.is_none() {
                    return Ok(None);
                }
            }
            let inside = Value {
                key: None,
                path: rest,
                texts: self.texts,
            };
            found = list.next_element_seed(inside)?.flatten();
        }
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(found)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Found, E> {
        Ok(None)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Found, E> {
        Ok(None)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Found, E> {
        Ok(None)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Found, E> {
        Ok(None)
    }

    fn visit_unit<E>(self) -> Result<Found, E> {
        Ok(None)
    }
}

/// The index that a part of a path spells in ASCII digits.
fn index_of(part: &str) -> Option<usize> {
    let is_number = part.bytes().all(|byte| byte.is_ascii_digit());
    if is_number { part.parse().ok() } else { None }
}

/// Compares a key with the one that is spelled like the path, and with the first of the path.
struct Key<'a>(Option<&'a str>, &'a str);

enum Kind {
    Whole,
    First,
    Other,
}

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = Kind;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Kind, D::Error> {
        json.deserialize_str(self)
    }
}

impl Visitor<'_> for Key<'_> {
    type Value = Kind;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, key: &str) -> Result<Kind, E> {
        Ok(if self.0 == Some(key) {
            Kind::Whole
        } else if self.1 == key {
            Kind::First
        } else {
            Kind::Other
        })
    }
}
