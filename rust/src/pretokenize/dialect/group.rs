//! Groups: `(...)`, look-arounds and flags.

use super::parser::{Flags, Parser};
use super::{Dialect, GroupKind, Node, Refusal};

/// The deepest nesting of groups.
const MAX_DEPTH: usize = 64;

impl Parser<'_> {
    /// Parse a group, after its `(`.
    pub(super) fn group(&mut self, start: usize) -> Result<Node, Refusal> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Refusal::new(start, format!("more than {MAX_DEPTH} groups in each other"));
        }
        let before = self.flags;
        let kind = self.group_kind(start)?;
        let child = match kind {
            Some(kind) => self.closed_group(start, kind)?,
            None => self.flags_group(start, before)?,
        };
        self.depth -= 1;
        Ok(child)
    }

    /// Take what follows `(` and tells the kind of group; None if flags follow.
    fn group_kind(&mut self, start: usize) -> Result<Option<GroupKind>, Refusal> {
        if self.take("*") {
            return Refusal::new(start, "a verb of backtracking: leave it out");
        }
        if !self.take("?") {
            return Ok(Some(GroupKind::Plain));
        }
        let kinds = [
            (":", GroupKind::Plain),
            (">", GroupKind::Atomic),
            ("=", GroupKind::Ahead),
            ("!", GroupKind::NotAhead),
            ("<=", GroupKind::Behind),
            ("<!", GroupKind::NotBehind),
        ];
        if let Some((_, kind)) = kinds.into_iter().find(|(opening, _)| self.take(opening)) {
            return Ok(Some(kind));
        }
        for (opening, closing) in [("<", '>'), ("P<", '>'), ("'", '\'')] {
            let is_known = opening != "P<" || !self.is_oniguruma();
            let name = self.rest().strip_prefix(opening).filter(|_| is_known);
            if let Some((name, _)) = name.and_then(|rest| rest.split_once(closing)) {
                // A name changes nothing, since nothing refers to it.
                self.at += opening.len() + name.len() + 1;
                return Ok(Some(GroupKind::Plain));
            }
        }
        if matches!(self.peek(), Some('(' | '~' | 'P' | '|' | '&' | '<' | '\'')) {
            let message = "a group of a kind that the dialects of regular expressions do not share: \
                           write `(?:...)`, `(?>...)` or a look-around";
            return Refusal::new(start, message);
        }
        Ok(None)
    }

    fn closed_group(&mut self, start: usize, kind: GroupKind) -> Result<Node, Refusal> {
        let before = self.flags;
        let child = self.alternatives()?;
        self.flags = before;
        if !self.take(")") {
            return Refusal::new(start, "`(` without `)`: write `\\(` for the character");
        }
        if kind.is_behind() {
            if child.looks_around() {
                return Refusal::new(
                    start,
                    "a look-around or an end within a look-behind: write it outside",
                );
            }
            if child.width().is_none() {
                let message = "a look-behind at texts of different lengths: write `(?:(?<=a)|(?<=bc))` \
                               for `(?<=a|bc)`";
                return Refusal::new(start, message);
            }
        }
        Ok(Node::Group(kind, Box::new(child)))
    }

    /// Parse `(?i)` and `(?i:...)`, after the `?`.
    fn flags_group(&mut self, start: usize, before: Flags) -> Result<Node, Refusal> {
        let mut flags = before;
        let mut on = true;
        loop {
            let at = self.at;
            match (self.next(), self.dialect) {
                (Some('i'), _) => flags.fold = on,
                (Some('x'), _) => flags.spaced = on,
                (Some('s'), Dialect::FancyRegex) | (Some('m'), Dialect::Oniguruma) => {
                    flags.dot_all = on;
                }
                (Some('m'), Dialect::FancyRegex) => flags.lines = on,
                (Some('u'), Dialect::FancyRegex) if on => {}
                (Some('-'), _) if on => on = false,
                (Some(':'), _) => break,
                (Some(')'), Dialect::FancyRegex) => {
                    // They hold up to the end of the group around, which restores the others.
                    self.flags = flags;
                    return Ok(Node::Empty);
                }
                (Some(')'), Dialect::Oniguruma) => {
                    // They make a group of the rest of the group around, its alternatives included.
                    self.flags = flags;
                    let content = self.at;
                    let child = self.alternatives()?;
                    self.flags = before;
                    self.check_folding(start, content, flags)?;
                    return Ok(Node::Group(GroupKind::Plain, Box::new(child)));
                }
                _ => {
                    let known = if self.is_oniguruma() {
                        "i, m and x"
                    } else {
                        "i, m, s, u and x"
                    };
                    return Refusal::new(
                        at,
                        format!("no flag that is known here: expected {known}"),
                    );
                }
            }
        }
        self.flags = flags;
        let content = self.at;
        let child = self.closed_group(start, GroupKind::Plain)?;
        self.flags = before;
        let is_plain = !before.fold && !flags.spaced && &self.text[start..content] == "(?i:";
        if is_plain && is_folded_alike(&self.text[content..self.at - 1]) {
            let text = self.text[start..self.at].to_owned();
            let Node::Group(_, child) = child else {
                unreachable!("closed_group returns a group");
            };
            return Ok(Node::Folded { text, child });
        }
        self.check_folding(start, content, flags)?;
        Ok(child)
    }

    /// Refuse what only Oniguruma ignores the case of: it takes `ss` for `ß`.
    fn check_folding(&self, start: usize, content: usize, flags: Flags) -> Result<(), Refusal> {
        let inside = self.text[content..self.at].trim_end_matches(')');
        if self.is_oniguruma() && flags.fold && !is_folded_alike(inside) {
            let message = "letters whose case is ignored, beyond plain alternatives of ASCII letters: \
                           Oniguruma takes `ss` for `ß`; write both cases, such as `[Ss]`";
            return Refusal::new(start, message);
        }
        Ok(())
    }
}

/// Whether both dialects ignore the case of `inside`, the inside of a group, in the same way.
///
/// Oniguruma knows characters that equal several letters, such as `ß` and `ss`. Among the letters of
/// ASCII, these are the pairs below.
fn is_folded_alike(inside: &str) -> bool {
    let inside = inside.to_ascii_lowercase();
    let mut outside_classes = String::new();
    let mut rest = inside.as_str();
    while let Some((before, after)) = rest.split_once('[') {
        let Some((class, after)) = after.split_once(']') else {
            return false;
        };
        if class.len() < 2 || !class.bytes().all(|byte| byte.is_ascii_lowercase()) {
            return false;
        }
        outside_classes.push_str(before);
        outside_classes.push('|');
        rest = after;
    }
    outside_classes.push_str(rest);
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'\'' | b' ' | b'|');
    outside_classes.bytes().all(is_plain)
        && !["ss", "st", "ff", "fi", "fl"]
            .iter()
            .any(|pair| outside_classes.contains(pair))
}
