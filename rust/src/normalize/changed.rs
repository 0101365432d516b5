//! Texts that are changed step by step, and may remember which part of the first text each byte stands for.

use std::ops::Range;

use super::forms::Form;

/// A text that a step makes of the one before.
pub(crate) trait Changed: Default {
    fn text(&self) -> &str;

    /// Append a part of `from` as it is.
    fn copy(&mut self, from: &Self, part: Range<usize>);

    /// Append a character that stands for a part of `from`.
    fn push(&mut self, from: &Self, c: char, part: Range<usize>);

    /// Return the normal form; None if it is the same.
    fn normalized(&self, form: Form) -> Option<Self>;
}

impl Changed for String {
    fn text(&self) -> &str {
        self
    }

    fn copy(&mut self, from: &Self, part: Range<usize>) {
        self.push_str(&from[part]);
    }

    fn push(&mut self, _from: &Self, c: char, _part: Range<usize>) {
        self.push(c);
    }

    fn normalized(&self, form: Form) -> Option<Self> {
        form.normalize(self)
    }
}

/// A text with the range of bytes of the first text that each of its bytes stands for.
#[derive(Debug, Default, Clone)]
pub(crate) struct Aligned {
    pub(crate) text: String,
    pub(crate) spans: Vec<(usize, usize)>,
}

impl Aligned {
    /// A text before any change, which begins at `start` in a longer one. Each byte stands for its character.
    pub(crate) fn new(text: &str, start: usize) -> Self {
        let spans = text.char_indices().flat_map(|(at, c)| {
            let span = (start + at, start + at + c.len_utf8());
            std::iter::repeat_n(span, c.len_utf8())
        });
        Aligned {
            text: text.into(),
            spans: spans.collect(),
        }
    }

    /// A part of the text.
    pub(crate) fn part(&self, part: Range<usize>) -> Self {
        let mut copy = Aligned::default();
        copy.copy(self, part);
        copy
    }
}

impl Changed for Aligned {
    fn text(&self) -> &str {
        &self.text
    }

    fn copy(&mut self, from: &Self, part: Range<usize>) {
        self.text.push_str(&from.text[part.clone()]);
        self.spans.extend_from_slice(&from.spans[part]);
    }

    fn push(&mut self, from: &Self, c: char, part: Range<usize>) {
        self.text.push(c);
        let span = (from.spans[part.start].0, from.spans[part.end - 1].1);
        self.spans.extend(std::iter::repeat_n(span, c.len_utf8()));
    }

    /// `tokenizers` gives each character that a decomposition adds the place of the one before it, and a
    /// composed one the place of its first character.
    fn normalized(&self, form: Form) -> Option<Self> {
        let mut changed = Aligned::default();
        let mut at: usize = 0;
        for (c, change) in form.changes(&self.text) {
            let span = match change {
                1.. => at
                    .checked_sub(1)
                    .map_or((0, 0), |before| self.spans[before]),
                _ => self.spans[at],
            };
            if change <= 0 {
                let replaced = self.text[at..].chars().take(1 + change.unsigned_abs());
                at += replaced.map(char::len_utf8).sum::<usize>();
            }
            changed.text.push(c);
            changed
                .spans
                .extend(std::iter::repeat_n(span, c.len_utf8()));
        }
        Some(changed)
    }
}
