//! Normalizers: changes to a text before it is cut into pre-tokens, as Hugging Face's `tokenizers` does them.

mod changed;
mod forms;

use std::borrow::Cow;

use serde_json::Value;
use unicode_normalization::char::is_combining_mark;

pub(crate) use self::changed::{Aligned, Changed};
use self::forms::Form;
use crate::error::Error;
use crate::pretokenize::Matches;

/// A sequence of changes to a text.
#[derive(Debug, Clone)]
pub struct Normalizer {
    steps: Vec<Step>,
}

/// One change to a text.
#[derive(Debug, Clone)]
enum Step {
    Form(Form),
    Lowercase,
    /// Remove white space at the start and at the end.
    Strip {
        left: bool,
        right: bool,
    },
    /// Remove combining marks.
    StripAccents,
    /// Remove control characters, and make white space of some others.
    Nmt,
    /// Add to the start of a text that is not empty.
    Prepend(String),
    Replace(Box<Matches>, String),
}

impl Normalizer {
    /// Read the `normalizer` of a `tokenizer.json`.
    ///
    /// # Errors
    /// Fails if it has a part that isn't known, or a regular expression that `fancy-regex` can't express.
    pub fn from_json(json: &str) -> Result<Self, Error> {
        let value: Value = serde_json::from_str(json)
            .map_err(|error| refused(&format!("is not valid JSON ({error})")))?;
        let mut steps = Vec::new();
        read_steps(&value, &mut steps)?;
        // Build the tables now: a process forked while another thread builds them would wait forever.
        for step in &steps {
            match step {
                Step::Form(form) => {
                    form.table();
                }
                Step::StripAccents => {
                    Form::Nfc.table();
                }
                _ => {}
            }
        }
        Ok(Normalizer { steps })
    }

    /// Return the normalized text, which is `text` itself if nothing changes.
    ///
    /// # Errors
    /// Fails if a regular expression gives up on the text.
    pub fn normalize<'t>(&self, text: &'t str) -> Result<Cow<'t, str>, Error> {
        let mut text = Cow::Borrowed(text);
        for step in &self.steps {
            let changed = match (step, &text) {
                (Step::Form(form), _) => form.normalize(&text),
                (_, Cow::Owned(text)) => step.apply(text)?,
                (_, Cow::Borrowed(text)) => step.apply(&String::from(*text))?,
            };
            if let Some(changed) = changed {
                text = Cow::Owned(changed);
            }
        }
        Ok(text)
    }

    /// [`Normalizer::normalize`] for a text that remembers where it came from.
    pub(crate) fn align(&self, mut text: Aligned) -> Result<Aligned, Error> {
        for step in &self.steps {
            text = step.apply(&text)?.unwrap_or(text);
        }
        Ok(text)
    }

    /// Whether a character stays as it is, and those before it are normalized as if the text ended there.
    /// It may change only with those after it.
    pub(crate) fn keeps(&self, c: char) -> bool {
        self.steps.iter().all(|step| match step {
            Step::Form(form) => form.table().entry(c) == 0,
            _ => false,
        })
    }
}

impl Step {
    /// Return the changed text; None if nothing changes.
    fn apply<C: Changed>(&self, from: &C) -> Result<Option<C>, Error> {
        let text = from.text();
        let mut changed = C::default();
        let characters = text
            .char_indices()
            .map(|(at, c)| (at..at + c.len_utf8(), c));
        match self {
            Step::Form(form) => return Ok(from.normalized(*form)),
            Step::Lowercase => {
                for (part, c) in characters {
                    c.to_lowercase()
                        .for_each(|lower| changed.push(from, lower, part.clone()));
                }
            }
            Step::Strip { left, right } => {
                let start = if *left {
                    text.len() - text.trim_start().len()
                } else {
                    0
                };
                let end = if *right {
                    text.trim_end().len()
                } else {
                    text.len()
                };
                changed.copy(from, start.min(end)..end);
            }
            Step::StripAccents => {
                for (part, _) in characters.filter(|&(_, c)| !is_accent(c)) {
                    changed.copy(from, part);
                }
            }
            Step::Nmt => {
                for (part, c) in characters {
                    nmt(c)
                        .into_iter()
                        .for_each(|c| changed.push(from, c, part.clone()));
                }
            }
            Step::Prepend(prefix) => {
                let first = 0..text.chars().next().map_or(0, char::len_utf8);
                if first.is_empty() {
                    return Ok(None);
                }
                prefix
                    .chars()
                    .for_each(|c| changed.push(from, c, first.clone()));
                changed.copy(from, 0..text.len());
            }
            Step::Replace(matches, content) => {
                matches.find(text, &mut |start, end, is_match| {
                    if is_match {
                        // The new characters stand for the last of the old ones.
                        let last = text[start..end]
                            .chars()
                            .next_back()
                            .map_or(0, char::len_utf8);
                        content
                            .chars()
                            .for_each(|c| changed.push(from, c, end - last..end));
                    } else {
                        changed.copy(from, start..end);
                    }
                    Ok(())
                })?;
            }
        }
        Ok(Some(changed))
    }
}

/// Whether Unicode 9.0, the version of the tables of `tokenizers`, takes a character for a mark.
fn is_accent(c: char) -> bool {
    // The category of these has changed since.
    match c {
        '\u{1cf2}' | '\u{1cf3}' => true,
        '\u{111c9}' => false,
        c => is_combining_mark(c) && forms::is_in_unicode_9(c),
    }
}

fn nmt(c: char) -> Option<char> {
    match c {
        '\u{1}'..='\u{8}' | '\u{b}' | '\u{e}'..='\u{1f}' | '\u{7f}' | '\u{8f}' | '\u{9f}' => None,
        '\t'
        | '\n'
        | '\u{c}'
        | '\r'
        | '\u{1680}'
        | '\u{200b}'..='\u{200f}'
        | '\u{2028}'
        | '\u{2029}'
        | '\u{2581}'
        | '\u{feff}'
        | '\u{fffd}' => Some(' '),
        c => Some(c),
    }
}

fn read_steps(value: &Value, steps: &mut Vec<Step>) -> Result<(), Error> {
    let flag = |key: &str| {
        let flag = value[key].as_bool();
        flag.ok_or_else(|| refused(&format!("has no {key} that is true or false: {value}")))
    };
    let text = |key: &str| {
        let text = value[key].as_str();
        text.ok_or_else(|| refused(&format!("has no {key} that is a string: {value}")))
    };
    steps.push(match value["type"].as_str() {
        Some("Sequence") => {
            let parts = value["normalizers"].as_array();
            let parts = parts.ok_or_else(|| refused("is a Sequence without normalizers"))?;
            return parts.iter().try_for_each(|part| read_steps(part, steps));
        }
        Some("NFC") => Step::Form(Form::Nfc),
        Some("NFD") => Step::Form(Form::Nfd),
        Some("NFKC") => Step::Form(Form::Nfkc),
        Some("NFKD") => Step::Form(Form::Nfkd),
        Some("Lowercase") => Step::Lowercase,
        Some("Nmt") => Step::Nmt,
        Some("Strip") => Step::Strip {
            left: flag("strip_left")?,
            right: flag("strip_right")?,
        },
        Some("StripAccents") => Step::StripAccents,
        Some("Prepend") => Step::Prepend(text("prepend")?.into()),
        Some("Replace") => {
            let matches = Matches::from_json("normalizer", &value["pattern"], false)?;
            Step::Replace(Box::new(matches), text("content")?.into())
        }
        Some(kind) => return Err(refused(&format!("has a {kind}, which is not implemented"))),
        None => return Err(refused(&format!("is {value}"))),
    });
    Ok(())
}

fn refused(what: &str) -> Error {
    Error::Pattern(format!(
        "the normalizer {what}: expected NFC, NFD, NFKC, NFKD, Lowercase, Nmt, Strip, StripAccents, \
         Prepend, Replace or a Sequence of them"
    ))
}

#[cfg(test)]
mod tests;
