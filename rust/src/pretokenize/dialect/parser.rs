//! From the text of an expression to its tree.

use super::node::Greed;
use super::{Dialect, GroupKind, Node, Refusal, Repeat};

/// The deepest nesting of groups.
const MAX_DEPTH: usize = 64;

/// The largest count in `{n,m}`.
const MAX_COUNT: u32 = 1000;

/// The options that a group can set, such as `(?i:...)`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Flags {
    /// Ignore case.
    pub(super) fold: bool,
    /// `.` matches a newline too.
    pub(super) dot_all: bool,
    /// `^` and `$` match at every line. They always do in Oniguruma.
    pub(super) lines: bool,
    /// Leave out white space and comments.
    pub(super) spaced: bool,
}

pub(super) struct Parser<'t> {
    pub(super) dialect: Dialect,
    pub(super) text: &'t str,
    /// The position in bytes.
    pub(super) at: usize,
    pub(super) flags: Flags,
    depth: usize,
}

impl<'t> Parser<'t> {
    pub(super) fn new(dialect: Dialect, text: &'t str) -> Self {
        Parser {
            dialect,
            text,
            at: 0,
            flags: Flags::default(),
            depth: 0,
        }
    }

    pub(super) fn parse(mut self) -> Result<Node, Refusal> {
        let node = self.alternatives()?;
        if self.at < self.text.len() {
            return Refusal::new(self.at, "`)` without `(`: write `\\)` for the character");
        }
        Ok(node)
    }

    pub(super) fn is_oniguruma(&self) -> bool {
        self.dialect == Dialect::Oniguruma
    }

    pub(super) fn rest(&self) -> &'t str {
        &self.text[self.at..]
    }

    pub(super) fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    /// Take the next character.
    pub(super) fn next(&mut self) -> Option<char> {
        let next = self.peek()?;
        self.at += next.len_utf8();
        Some(next)
    }

    /// Take `expected` if it comes next.
    pub(super) fn take(&mut self, expected: &str) -> bool {
        let found = self.rest().starts_with(expected);
        if found {
            self.at += expected.len();
        }
        found
    }

    /// Take comments, and white space with the flag `x`.
    fn skip_ignored(&mut self) -> Result<(), Refusal> {
        loop {
            let start = self.at;
            if self.take("(?#") {
                let Some(length) = self.rest().find([')', '\\']) else {
                    return Refusal::new(start, "a comment without its end: write `)` after it");
                };
                self.at += length;
                if !self.take(")") {
                    return Refusal::new(self.at, "`\\` in a comment: leave it out");
                }
            } else if self.flags.spaced && self.take("#") {
                self.at += self.rest().find('\n').unwrap_or(self.rest().len());
            } else if self.flags.spaced && matches!(self.peek(), Some(' ' | '\t' | '\r' | '\n')) {
                self.at += 1;
            } else {
                return Ok(());
            }
        }
    }

    /// Parse up to the end of the group or of the expression.
    fn alternatives(&mut self) -> Result<Node, Refusal> {
        let mut branches = vec![self.branch()?];
        while self.take("|") {
            branches.push(self.branch()?);
        }
        Ok(match branches.len() {
            1 => branches.remove(0),
            _ => Node::Alternatives(branches),
        })
    }

    fn branch(&mut self) -> Result<Node, Refusal> {
        let mut nodes = Vec::new();
        loop {
            self.skip_ignored()?;
            if matches!(self.peek(), None | Some('|' | ')')) {
                break;
            }
            let atom = self.atom()?;
            match self.quantified(atom)? {
                Node::Empty => {}
                node => nodes.push(node),
            }
        }
        Ok(match nodes.len() {
            0 => Node::Empty,
            1 => nodes.remove(0),
            _ => Node::Concat(nodes),
        })
    }

    fn atom(&mut self) -> Result<Node, Refusal> {
        let start = self.at;
        match self.next().expect("the caller has peeked") {
            '(' => self.group(start),
            '[' => self.class(start),
            '\\' => self.escape(start),
            '.' if self.flags.dot_all => Ok(self.set(r"[\s\S]")),
            '.' => Ok(self.set(r"[^\n]")),
            '^' => Ok(self.line_start()),
            '$' => Ok(self.line_end()),
            '*' | '+' | '?' => {
                Refusal::new(start, "a quantifier after nothing that it could repeat")
            }
            '{' => Refusal::new(
                start,
                "`{` that begins no count: write `\\{` for the character",
            ),
            c => self.literal(c, None),
        }
    }

    fn line_start(&self) -> Node {
        match (self.dialect, self.flags.lines) {
            (Dialect::FancyRegex, false) => Node::Start,
            (Dialect::FancyRegex, true) => self.trusted(r"(?<![^\n])"),
            // Oniguruma sees no line after the last newline.
            (Dialect::Oniguruma, _) => self.trusted(r"(?:\A|(?<=\n)(?!\z))"),
        }
    }

    fn line_end(&self) -> Node {
        match (self.dialect, self.flags.lines) {
            (Dialect::FancyRegex, false) => Node::End,
            _ => self.trusted(r"(?![^\n])"),
        }
    }

    /// Parse an expression of the common dialect.
    pub(super) fn trusted(&self, text: &str) -> Node {
        let node = Parser::new(Dialect::FancyRegex, text).parse();
        node.expect("the translations are expressions of the common dialect")
    }

    /// The quantifiers after `node`.
    fn quantified(&mut self, mut node: Node) -> Result<Node, Refusal> {
        let mut n_quantifiers = 0;
        loop {
            self.skip_ignored()?;
            let start = self.at;
            let is_count = self.peek() == Some('{');
            let Some((min, max)) = self.count()? else {
                return Ok(node);
            };
            n_quantifiers += 1;
            // The crate takes a second count as text, and refuses anything else.
            if n_quantifiers > if self.is_oniguruma() { 4 } else { 1 } {
                return Refusal::new(
                    start,
                    "one quantifier after another: write `(?:...)` around the first",
                );
            }
            if !node.is_repeatable() {
                return Refusal::new(
                    start,
                    "a quantifier after an assertion or after nothing: take it out of the repeated part",
                );
            }
            if max.is_none_or(|max| max > 1) && node.is_nullable() {
                let message = "a quantifier after what can match nothing: the dialects of regular \
                               expressions end such loops differently; write `+` for `*` inside";
                return Refusal::new(start, message);
            }
            let is_fixed = is_count && max == Some(min) && !self.text[start..self.at].contains(',');
            let mut greed = Greed::Greedy;
            let mut is_atomic = false;
            if self.is_oniguruma() {
                // After a count, `+` is another quantifier; so is `?` after `{n}`.
                if !is_fixed && self.take("?") {
                    greed = Greed::Lazy;
                } else if !is_count && self.take("+") {
                    greed = Greed::Possessive;
                }
            } else {
                if self.take("?") && !is_fixed {
                    greed = Greed::Lazy;
                }
                if self.take("+") {
                    is_atomic = greed == Greed::Lazy;
                    greed = if is_atomic {
                        Greed::Lazy
                    } else {
                        Greed::Possessive
                    };
                }
            }
            node = Node::Repeat(Repeat { min, max, greed }, Box::new(node));
            if is_atomic {
                node = Node::Group(GroupKind::Atomic, Box::new(node));
            }
        }
    }

    /// Take a quantifier: the least and the largest count.
    fn count(&mut self) -> Result<Option<(u32, Option<u32>)>, Refusal> {
        let start = self.at;
        let count = match self.peek() {
            Some('*') => (0, None),
            Some('+') => (1, None),
            Some('?') => (0, Some(1)),
            Some('{') => {
                let inside = self.rest()[1..].split_once('}').map(|(inside, _)| inside);
                let Some(count) = inside.and_then(read_count) else {
                    let message = "`{` that begins no count: write `\\{` for the character";
                    return Refusal::new(start, message);
                };
                self.at += inside.map_or(0, str::len) + 1;
                count
            }
            _ => return Ok(None),
        };
        self.at += 1;
        if count.1.is_some_and(|max| max < count.0) {
            return Refusal::new(
                start,
                "a count whose maximum is below its minimum: swap them",
            );
        }
        if count.0.max(count.1.unwrap_or(0)) > MAX_COUNT {
            return Refusal::new(
                start,
                format!("a count above {MAX_COUNT}: write a smaller one"),
            );
        }
        Ok(Some(count))
    }

    /// Parse a group, after its `(`.
    fn group(&mut self, start: usize) -> Result<Node, Refusal> {
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

/// Read the inside of `{n}`, `{n,}`, `{,m}` or `{n,m}`.
fn read_count(inside: &str) -> Option<(u32, Option<u32>)> {
    let number = |digits: &str| {
        let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        is_number.then(|| digits.parse().unwrap_or(u32::MAX))
    };
    match inside.split_once(',') {
        None => number(inside).map(|n| (n, Some(n))),
        Some(("", max)) => number(max).map(|max| (0, Some(max))),
        Some((min, "")) => number(min).map(|min| (min, None)),
        Some((min, max)) => Some((number(min)?, Some(number(max)?))),
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
