//! Cutting text into pre-tokens, the stretches that BPE never merges across.
//!
//! Whatever the pattern, the pre-tokens laid end to end are the text: nothing is dropped.

use std::collections::HashMap;
use std::sync::LazyLock;

use fancy_regex::Regex;
use regex_syntax::hir::{Class, HirKind};

use crate::error::Error;

/// The split pattern published with GPT-2, which [`Pattern::Gpt2`] implements by hand.
pub const GPT2_REGEX: &str =
    r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

/// How text is cut.
#[derive(Debug, Clone)]
pub enum Pattern {
    /// The matches of [`GPT2_REGEX`], found in linear time.
    Gpt2,
    /// The whole text is one pre-token.
    None,
    /// The matches of a regular expression, and each stretch between two matches.
    Regex(Box<Regex>),
}

impl Pattern {
    /// `"gpt2"`, `"none"`, or else a regular expression in the syntax of the crate `fancy-regex`.
    pub fn new(pattern: &str) -> Result<Self, Error> {
        match pattern {
            "gpt2" => Ok(Pattern::Gpt2),
            "none" => Ok(Pattern::None),
            regex => Regex::new(regex)
                .map(|regex| Pattern::Regex(Box::new(regex)))
                .map_err(|error| {
                    Error::Pattern(format!(
                        "the split pattern {regex:?} is neither \"gpt2\", \"none\" nor a valid \
                         regular expression: {error}"
                    ))
                }),
        }
    }

    /// What [`Pattern::new`] was given.
    pub fn as_str(&self) -> &str {
        match self {
            Pattern::Gpt2 => "gpt2",
            Pattern::None => "none",
            Pattern::Regex(regex) => regex.as_str(),
        }
    }

    /// Hand each pre-token of `text` to `visit`, in order. None is empty.
    ///
    /// Fails if a regular expression exceeds its backtracking limit, or if `visit` fails.
    pub fn split<'t>(
        &self,
        text: &'t str,
        mut visit: impl FnMut(&'t str) -> Result<(), Error>,
    ) -> Result<(), Error> {
        match self {
            Pattern::Gpt2 => {
                let mut rest = text;
                while !rest.is_empty() {
                    let (piece, after) = rest.split_at(gpt2_match(rest));
                    visit(piece)?;
                    rest = after;
                }
                Ok(())
            }
            Pattern::None if text.is_empty() => Ok(()),
            Pattern::None => visit(text),
            Pattern::Regex(regex) => split_by_regex(regex, text, visit),
        }
    }

    /// [`Pattern::split`] for bytes that need not be UTF-8.
    ///
    /// Each maximal stretch of valid UTF-8 is cut as if it stood alone; each maximal run of invalid
    /// bytes between them is one pre-token, like a run of punctuation.
    pub fn split_bytes<'t>(
        &self,
        bytes: &'t [u8],
        mut visit: impl FnMut(&'t [u8]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        // `utf8_chunks` yields (valid, invalid) pairs with at most three invalid bytes each, so the
        // invalid runs have to be joined: [invalid_start, position) is the run seen so far.
        let mut position = 0;
        let mut invalid_start = 0;
        for chunk in bytes.utf8_chunks() {
            if !chunk.valid().is_empty() {
                if invalid_start < position {
                    visit(&bytes[invalid_start..position])?;
                }
                self.split(chunk.valid(), |piece| visit(piece.as_bytes()))?;
                position += chunk.valid().len();
                invalid_start = position;
            }
            position += chunk.invalid().len();
        }
        if invalid_start < position {
            visit(&bytes[invalid_start..position])?;
        }
        Ok(())
    }
}

fn split_by_regex<'t>(
    regex: &Regex,
    text: &'t str,
    mut visit: impl FnMut(&'t str) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut done = 0;
    for found in regex.find_iter(text) {
        let found = found.map_err(|error| {
            Error::Pattern(format!(
                "the split pattern {:?} gave up on the text after byte {done}: {error}; use a \
                 pattern that backtracks less, or shorter texts",
                regex.as_str()
            ))
        })?;
        for piece in [
            &text[done..found.start()],
            &text[found.start()..found.end()],
        ] {
            if !piece.is_empty() {
                visit(piece)?;
            }
        }
        done = found.end();
    }
    if done < text.len() {
        visit(&text[done..])?;
    }
    Ok(())
}

/// Length in bytes of the match of [`GPT2_REGEX`] at the start of `text`, which isn't empty.
fn gpt2_match(text: &str) -> usize {
    if let Some(length) = contraction(text) {
        return length;
    }
    let classes = &*CHAR_CLASSES;
    // One optional space joins the run of letters, numbers or others that follows it.
    let after_space = text.strip_prefix(' ').unwrap_or(text);
    if let Some(first) = after_space.chars().next() {
        let class = classes.of(first);
        if class != CharClass::Space {
            let run = run_length(after_space, class);
            return text.len() - after_space.len() + run;
        }
    }
    // White space: all of it at the end of the text, else all but its last character, so that this
    // one can join the word that follows; a single character stands alone.
    let run = run_length(text, CharClass::Space);
    let last = text[..run].chars().next_back().map_or(0, char::len_utf8);
    if run == text.len() || run == last {
        run
    } else {
        run - last
    }
}

/// Length of the English contraction at the start of `text`: 's 'd 'm 't 'll 've 're.
fn contraction(text: &str) -> Option<usize> {
    match text.as_bytes() {
        [b'\'', b's' | b'd' | b'm' | b't', ..] => Some(2),
        [b'\'', b'l', b'l', ..] | [b'\'', b'v' | b'r', b'e', ..] => Some(3),
        _ => None,
    }
}

fn run_length(text: &str, class: CharClass) -> usize {
    let classes = &*CHAR_CLASSES;
    text.char_indices()
        .find(|&(_, c)| classes.of(c) != class)
        .map_or(text.len(), |(end, _)| end)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum CharClass {
    Other,
    Letter,
    Number,
    Space,
}

/// The class of every code point, as pages of 256 of which equal ones are stored once.
struct CharClasses {
    page_of: Vec<u16>,
    pages: Vec<[CharClass; PAGE]>,
}

const PAGE: usize = 256;
const N_CODE_POINTS: usize = char::MAX as usize + 1;

static CHAR_CLASSES: LazyLock<CharClasses> = LazyLock::new(CharClasses::new);

impl CharClasses {
    fn new() -> Self {
        let mut flat = vec![CharClass::Other; N_CODE_POINTS];
        for (regex, class) in [
            (r"\p{L}", CharClass::Letter),
            (r"\p{N}", CharClass::Number),
            (r"\s", CharClass::Space),
        ] {
            for (first, last) in code_point_ranges(regex) {
                flat[first as usize..=last as usize].fill(class);
            }
        }
        let mut pages = Vec::new();
        let mut seen = HashMap::new();
        let page_of = flat
            .chunks_exact(PAGE)
            .map(|page| {
                *seen.entry(page).or_insert_with(|| {
                    pages.push(page.try_into().expect("chunks_exact gives PAGE classes"));
                    pages.len() as u16 - 1
                })
            })
            .collect();
        CharClasses { page_of, pages }
    }

    fn of(&self, c: char) -> CharClass {
        let code_point = c as usize;
        self.pages[usize::from(self.page_of[code_point / PAGE])][code_point % PAGE]
    }
}

/// The inclusive ranges of a regular expression that is one Unicode class.
fn code_point_ranges(class_regex: &str) -> Vec<(char, char)> {
    let hir = regex_syntax::parse(class_regex).expect("the three classes above are valid");
    match hir.kind() {
        HirKind::Class(Class::Unicode(class)) => {
            class.iter().map(|r| (r.start(), r.end())).collect()
        }
        kind => unreachable!("{class_regex} is a Unicode class, not {kind:?}"),
    }
}
