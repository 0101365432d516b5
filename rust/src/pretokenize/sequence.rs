//! Pre-tokenizers of a `tokenizer.json`: sequences of steps, each of which cuts the pieces of the one before.
//!
//! A step may also change a piece: ByteLevel may add a space to its start, and Metaspace replaces spaces.

use std::ops::Range;

use serde_json::Value;

use super::matches::{Matches, is_punctuation};
use super::published::published_sequence;
use super::split::{Behavior, Split};
use super::{Pattern, Visitor};
use crate::error::Error;
use crate::normalize::Changed;

/// A pre-tokenizer that no other pattern expresses.
#[derive(Debug, Clone)]
pub struct Sequence {
    json: String,
    steps: Vec<Step>,
}

/// One step of a pre-tokenizer.
#[derive(Debug, Clone)]
pub(super) enum Step {
    /// Cut by a pattern.
    Pattern(Pattern),
    Split(Split),
    /// Add a space to the start, unless there is one.
    PrefixSpace,
    Metaspace {
        /// What stands for a space.
        replacement: char,
        scheme: Scheme,
    },
}

/// Where Metaspace adds the character that stands for a space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scheme {
    /// To the start of the text.
    First,
    /// To the start of each piece.
    Always,
    Never,
}

/// A changed text and the ends of its pieces.
#[derive(Debug, Default)]
pub(crate) struct Rewritten<C> {
    pub(crate) text: C,
    pub(crate) ends: Vec<usize>,
}

impl Sequence {
    /// Read the `pre_tokenizer` of a `tokenizer.json`. It becomes one of the other patterns, if there is one
    /// that cuts alike.
    pub(super) fn from_json(json: &str) -> Result<Pattern, Error> {
        let value: Value = serde_json::from_str(json)
            .map_err(|error| refused(&format!("is not valid JSON ({error})")))?;
        let mut parts = Vec::new();
        flatten(&value, &mut parts)?;
        if let Some(pattern) = published_sequence(&parts) {
            return Ok(pattern);
        }
        let mut steps = Vec::new();
        let mut is_byte_level = false;
        for part in parts {
            match is_byte_level {
                false => read_part(part, &mut steps)?,
                // The caller lists no merges across the places where it cuts.
                true if part["type"] == "Digits" && part["individual_digits"] == false => {}
                // Digits mean the same in the byte-level alphabet.
                true if is_ascii_digits(part) => read_part(part, &mut steps)?,
                true => return Err(refused(&format!("has {part} after ByteLevel"))),
            }
            is_byte_level |= part["type"] == "ByteLevel";
        }
        // GPT-2's pattern leaves its own pieces whole.
        steps.dedup_by(|b, a| {
            let is_gpt2 = |step: &Step| matches!(step, Step::Pattern(p) if p.as_str() == "gpt2");
            is_gpt2(a) && is_gpt2(b)
        });
        match &steps[..] {
            [] => Ok(Pattern::None),
            [Step::Pattern(pattern)] => Ok(pattern.clone()),
            _ => Ok(Pattern::Sequence(Box::new(Sequence {
                json: json.into(),
                steps,
            }))),
        }
    }

    /// The JSON as given.
    pub(super) fn json(&self) -> &str {
        &self.json
    }

    /// Whether some step changes the text.
    pub(super) fn rewrites(&self) -> bool {
        self.steps.iter().any(Step::rewrites)
    }

    /// Whether what a step does depends on where in a text a piece is.
    pub(super) fn depends_on_start(&self) -> bool {
        self.steps.iter().any(|step| {
            let is_first = |scheme: &Scheme| *scheme == Scheme::First;
            matches!(step, Step::Metaspace { scheme, .. } if is_first(scheme))
        })
    }

    /// Whether all steps take time in proportion to the length of the text.
    pub(super) fn is_linear(&self) -> bool {
        self.steps.iter().all(|step| match step {
            Step::Pattern(pattern) => pattern.is_linear(),
            Step::Split(split) => match &split.matches {
                Matches::Regex(_) => false,
                Matches::Everything(pattern) => pattern.is_linear(),
                Matches::String(_) | Matches::Class(_) => true,
            },
            Step::PrefixSpace | Step::Metaspace { .. } => true,
        })
    }

    /// Pass the pieces of `text` to `visitor`. No step changes the text.
    pub(super) fn visit(&self, text: &str, visitor: &mut impl Visitor) -> Result<(), Error> {
        visit_steps(&self.steps, text, 0, visitor)
    }

    /// Change and cut `text`, which is the start of a text or not.
    pub(super) fn rewrite<C: Changed>(
        &self,
        text: C,
        is_first: bool,
    ) -> Result<Rewritten<C>, Error> {
        if text.text().is_empty() {
            return Ok(Rewritten::default());
        }
        let ends = vec![text.text().len()];
        let mut now = Rewritten { text, ends };
        for step in &self.steps {
            let mut next = Rewritten::default();
            let mut start = 0;
            for &end in &now.ends {
                if step.rewrites() {
                    let is_first = is_first && start == 0;
                    step.push_changed(&now.text, start..end, is_first, &mut next.text);
                    next.ends.push(next.text.text().len());
                } else {
                    step.cut(&now.text.text()[start..end], &mut |_, to| {
                        next.ends.push(start + to);
                        Ok(())
                    })?;
                }
                start = end;
            }
            if !step.rewrites() {
                next.text = now.text;
            }
            now = next;
        }
        Ok(now)
    }

    /// Find the last place within `bytes` where a longer text may be cut; 0 if there is none.
    pub(super) fn safe_cut(&self, bytes: &[u8]) -> usize {
        let is_at_space = |cut: usize| bytes[cut] == b' ';
        match &self.steps[..] {
            // The text after the cut gets no space, because it has one.
            [Step::PrefixSpace, steps @ ..] if !steps.iter().any(Step::rewrites) => {
                let mut cut = safe_cut(steps, bytes);
                while cut > 0 && !is_at_space(cut) {
                    cut = safe_cut(steps, &bytes[..cut]);
                }
                cut
            }
            // A piece begins at each space.
            [Step::Metaspace { .. }, Step::Split(split), ..] if split.is_at_starts() => {
                let spaces = (1..bytes.len()).rev();
                spaces
                    .into_iter()
                    .find(|&cut| is_at_space(cut))
                    .unwrap_or(0)
            }
            steps => safe_cut(steps, bytes),
        }
    }
}

/// A cut changes nothing where the first step that has a say makes one anyway. A step that cuts between
/// characters by what they are has none: it cuts the parts as it cuts the whole.
fn safe_cut(steps: &[Step], bytes: &[u8]) -> usize {
    let only_cuts = !steps.iter().any(Step::rewrites);
    let has_no_say = |step: &&Step| match step {
        Step::Split(split) => only_cuts && split.is_divisible(),
        _ => false,
    };
    match steps.iter().find(|step| !has_no_say(step)) {
        Some(Step::Pattern(pattern)) => pattern.safe_cut(bytes),
        _ => 0,
    }
}

fn visit_steps(
    steps: &[Step],
    text: &str,
    offset: usize,
    visitor: &mut impl Visitor,
) -> Result<(), Error> {
    let Some((step, rest)) = steps.split_first() else {
        return visitor.pieces(offset, &[offset + text.len()]);
    };
    step.cut(text, &mut |start, end| {
        visit_steps(rest, &text[start..end], offset + start, visitor)
    })
}

impl Step {
    fn rewrites(&self) -> bool {
        matches!(self, Step::PrefixSpace | Step::Metaspace { .. })
    }

    /// Cut a text; a step that changes it leaves it whole.
    fn cut(
        &self,
        text: &str,
        visit: &mut dyn FnMut(usize, usize) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut visitor = |start: usize, end: usize| visit(start, end);
        match self {
            Step::Pattern(pattern) => pattern.visit(text, &mut visitor),
            Step::Split(split) => split.visit(text, &mut visitor),
            Step::PrefixSpace | Step::Metaspace { .. } => visitor(0, text.len()),
        }
    }

    /// Append a piece of `from`, changed, which begins a text or not.
    fn push_changed<C: Changed>(&self, from: &C, part: Range<usize>, is_first: bool, to: &mut C) {
        let piece = &from.text()[part.clone()];
        let first = piece.chars().next().map_or(0, char::len_utf8);
        let first = part.start..part.start + first;
        match *self {
            Step::PrefixSpace => {
                if !piece.starts_with(' ') {
                    to.push(from, ' ', first);
                }
                to.copy(from, part);
            }
            Step::Metaspace {
                replacement,
                scheme,
            } => {
                let is_prefixed = match scheme {
                    Scheme::First => is_first,
                    Scheme::Always => true,
                    Scheme::Never => false,
                };
                if is_prefixed && !piece.starts_with([' ', replacement]) {
                    to.push(from, replacement, first);
                }
                let mut start = part.start;
                for (at, _) in piece.match_indices(' ') {
                    let at = part.start + at;
                    to.copy(from, start..at);
                    to.push(from, replacement, at..at + 1);
                    start = at + 1;
                }
                to.copy(from, start..part.end);
            }
            Step::Pattern(_) | Step::Split(_) => to.copy(from, part),
        }
    }
}

/// Collect the parts of a Sequence, and of Sequences in it.
fn flatten<'v>(value: &'v Value, parts: &mut Vec<&'v Value>) -> Result<(), Error> {
    if value["type"] != "Sequence" {
        parts.push(value);
        return Ok(());
    }
    let members = value["pretokenizers"].as_array();
    let members = members.ok_or_else(|| refused("is a Sequence without pretokenizers"))?;
    members.iter().try_for_each(|part| flatten(part, parts))
}

/// Whether a part splits three digits off, as Falcon's does.
fn is_ascii_digits(part: &Value) -> bool {
    part["type"] == "Split" && part["pattern"]["Regex"] == "[0-9][0-9][0-9]"
}

fn read_part(part: &Value, steps: &mut Vec<Step>) -> Result<(), Error> {
    let flag = |key: &str, default: Option<bool>| {
        let flag = part[key]
            .as_bool()
            .or(default.filter(|_| part[key].is_null()));
        flag.ok_or_else(|| refused(&format!("has no {key} that is true or false: {part}")))
    };
    let isolated = |matches, behavior| {
        Step::Split(Split {
            matches,
            behavior,
            invert: false,
        })
    };
    match part["type"].as_str() {
        Some("ByteLevel") => {
            if flag("add_prefix_space", None)? {
                steps.push(Step::PrefixSpace);
            }
            // In files before 2022 it is missing.
            if flag("use_regex", Some(true))? {
                steps.push(Step::Pattern(Pattern::new("gpt2")?));
            }
        }
        Some("Split") => {
            let may_be_empty = part["behavior"] == "Isolated";
            let matches = Matches::from_json("Split", &part["pattern"], may_be_empty)?;
            let invert = flag("invert", Some(false))?;
            let keeps_all = invert && matches!(matches, Matches::Everything(_));
            let behavior = match part["behavior"].as_str() {
                Some("Removed") if keeps_all => Behavior::Isolated,
                behavior => behavior_of(behavior, part)?,
            };
            let split = Split {
                matches,
                behavior,
                invert,
            };
            steps.push(split.as_pattern().map_or(Step::Split(split), Step::Pattern));
        }
        Some("Digits") => {
            let behavior = match flag("individual_digits", None)? {
                true => Behavior::Isolated,
                false => Behavior::Contiguous,
            };
            steps.push(isolated(Matches::Class(char::is_numeric), behavior));
        }
        Some("Punctuation") => {
            let behavior = part["behavior"].as_str().or(Some("Isolated"));
            let behavior = behavior_of(behavior, part)?;
            steps.push(isolated(Matches::Class(is_punctuation), behavior));
        }
        Some("Metaspace") => read_metaspace(part, flag("split", Some(true))?, steps)?,
        Some(kind) => return Err(refused(&format!("has a {kind}, which is not implemented"))),
        None => return Err(refused(&format!("has the part {part}"))),
    }
    Ok(())
}

fn behavior_of(behavior: Option<&str>, part: &Value) -> Result<Behavior, Error> {
    match behavior {
        Some("Isolated") => Ok(Behavior::Isolated),
        Some("MergedWithPrevious") => Ok(Behavior::MergedWithPrevious),
        Some("MergedWithNext") => Ok(Behavior::MergedWithNext),
        Some("Contiguous") => Ok(Behavior::Contiguous),
        Some("Removed") => Err(refused(&format!("drops some text with {part}"))),
        _ => Err(refused(&format!("has no behavior that is known: {part}"))),
    }
}

fn read_metaspace(part: &Value, split: bool, steps: &mut Vec<Step>) -> Result<(), Error> {
    let mut characters = part["replacement"].as_str().unwrap_or_default().chars();
    let (Some(replacement), None) = (characters.next(), characters.next()) else {
        return Err(refused(&format!(
            "has no replacement of one character: {part}"
        )));
    };
    let scheme = match part["prepend_scheme"].as_str() {
        Some("first") => Scheme::First,
        Some("always") => Scheme::Always,
        Some("never") => Scheme::Never,
        // Files before 2023 have a flag instead.
        None if part["add_prefix_space"] == false => Scheme::Never,
        None => Scheme::Always,
        _ => {
            return Err(refused(&format!(
                "has no prepend_scheme that is known: {part}"
            )));
        }
    };
    if scheme == Scheme::First && !steps.is_empty() {
        return Err(refused(
            "has a Metaspace with the scheme first after other parts",
        ));
    }
    steps.push(Step::Metaspace {
        replacement,
        scheme,
    });
    if split {
        steps.push(Step::Split(Split {
            matches: Matches::String(replacement.to_string().into()),
            behavior: Behavior::MergedWithNext,
            invert: false,
        }));
    }
    Ok(())
}

fn refused(what: &str) -> Error {
    Error::Pattern(format!(
        "the pre_tokenizer {what}: expected ByteLevel, Digits, Metaspace, Punctuation or a Split that keeps \
         all text, or a Sequence of them that ends with ByteLevel"
    ))
}
