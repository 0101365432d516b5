//! From the text of an expression to its tree.

use super::node::Greed;
use super::{Dialect, GroupKind, Node, Refusal, Repeat};

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
    pub(super) depth: usize,
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
    pub(super) fn alternatives(&mut self) -> Result<Node, Refusal> {
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
