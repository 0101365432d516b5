//! A regular expression as a tree.

use regex_syntax::hir::ClassUnicode;

use super::Dialect;
use super::escape::word_escape;

/// A regular expression, or a part of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) enum Node {
    Empty,
    /// Any one character of `set`, which is `text` in the common dialect.
    Char {
        text: String,
        set: ClassUnicode,
    },
    /// `\A`
    Start,
    /// `\z`
    End,
    Concat(Vec<Node>),
    Alternatives(Vec<Node>),
    Group(GroupKind, Box<Node>),
    /// A group in which case is ignored, with a text that means the same in both dialects.
    Folded {
        text: String,
        child: Box<Node>,
    },
    Repeat(Repeat, Box<Node>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum GroupKind {
    Plain,
    Atomic,
    Ahead,
    NotAhead,
    Behind,
    NotBehind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct Repeat {
    pub(in super::super) min: u32,
    /// None is no limit.
    pub(in super::super) max: Option<u32>,
    pub(in super::super) greed: Greed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Greed {
    Greedy,
    Lazy,
    Possessive,
}

impl GroupKind {
    fn opening(self) -> &'static str {
        match self {
            GroupKind::Plain => "(?:",
            GroupKind::Atomic => "(?>",
            GroupKind::Ahead => "(?=",
            GroupKind::NotAhead => "(?!",
            GroupKind::Behind => "(?<=",
            GroupKind::NotBehind => "(?<!",
        }
    }

    pub(super) fn is_behind(self) -> bool {
        matches!(self, GroupKind::Behind | GroupKind::NotBehind)
    }

    pub(super) fn is_assertion(self) -> bool {
        !matches!(self, GroupKind::Plain | GroupKind::Atomic)
    }
}

impl Node {
    /// The text in the common dialect.
    pub(in super::super) fn text(&self) -> String {
        let mut text = String::new();
        self.write(&mut text, Dialect::Oniguruma);
        text
    }

    /// The text for `fancy-regex`, which has shorter and faster spellings of words.
    pub(in super::super) fn fancy_text(&self) -> String {
        let mut text = String::new();
        self.write(&mut text, Dialect::FancyRegex);
        text
    }

    fn write(&self, out: &mut String, dialect: Dialect) {
        if dialect == Dialect::FancyRegex
            && matches!(self, Node::Char { .. } | Node::Group(GroupKind::Plain, _))
            && let Some(escape) = word_escape(&self.text())
        {
            out.push_str(escape);
            return;
        }
        match self {
            Node::Empty => {}
            Node::Char { text, .. } | Node::Folded { text, .. } => out.push_str(text),
            Node::Start => out.push_str(r"\A"),
            Node::End => out.push_str(r"\z"),
            Node::Concat(nodes) => nodes.iter().for_each(|node| node.write(out, dialect)),
            Node::Alternatives(nodes) => {
                for (i, node) in nodes.iter().enumerate() {
                    if i > 0 {
                        out.push('|');
                    }
                    node.write(out, dialect);
                }
            }
            Node::Group(kind, child) => {
                out.push_str(kind.opening());
                child.write(out, dialect);
                out.push(')');
            }
            Node::Repeat(repeat, child) => repeat.write(child, out, dialect),
        }
    }

    /// Whether it can match the empty text.
    pub(in super::super) fn is_nullable(&self) -> bool {
        match self {
            Node::Char { .. } => false,
            Node::Empty | Node::Start | Node::End => true,
            Node::Concat(nodes) => nodes.iter().all(Node::is_nullable),
            Node::Alternatives(nodes) => nodes.iter().any(Node::is_nullable),
            Node::Group(kind, child) => kind.is_assertion() || child.is_nullable(),
            Node::Folded { child, .. } => child.is_nullable(),
            Node::Repeat(repeat, child) => repeat.min == 0 || child.is_nullable(),
        }
    }

    /// The number of characters of every match, if all have as many.
    pub(in super::super) fn width(&self) -> Option<u32> {
        match self {
            Node::Char { .. } => Some(1),
            Node::Empty | Node::Start | Node::End => Some(0),
            Node::Concat(nodes) => nodes.iter().map(Node::width).sum(),
            Node::Alternatives(nodes) => {
                let mut widths = nodes.iter().map(Node::width);
                let first = widths.next().flatten();
                first.filter(|_| widths.all(|width| width == first))
            }
            Node::Group(kind, _) if kind.is_assertion() => Some(0),
            Node::Group(_, child) | Node::Folded { child, .. } => child.width(),
            Node::Repeat(repeat, child) => {
                let times = repeat.max.filter(|&max| max == repeat.min)?;
                child.width()?.checked_mul(times)
            }
        }
    }

    /// Whether it contains a possessive loop.
    pub(in super::super) fn is_possessive(&self) -> bool {
        match self {
            Node::Empty | Node::Start | Node::End | Node::Char { .. } => false,
            Node::Concat(nodes) | Node::Alternatives(nodes) => {
                nodes.iter().any(Node::is_possessive)
            }
            Node::Group(_, child) | Node::Folded { child, .. } => child.is_possessive(),
            Node::Repeat(repeat, child) => {
                repeat.greed == Greed::Possessive || child.is_possessive()
            }
        }
    }

    /// Whether it contains a look-around or `\z`.
    pub(super) fn looks_around(&self) -> bool {
        match self {
            Node::Empty | Node::Start | Node::Char { .. } => false,
            Node::End => true,
            Node::Concat(nodes) | Node::Alternatives(nodes) => nodes.iter().any(Node::looks_around),
            Node::Group(kind, child) => kind.is_assertion() || child.looks_around(),
            Node::Folded { child, .. } | Node::Repeat(_, child) => child.looks_around(),
        }
    }
}

impl Node {
    /// Whether a quantifier may follow: not after an assertion, alone or as an alternative.
    pub(super) fn is_repeatable(&self) -> bool {
        match self {
            Node::Start | Node::End => false,
            Node::Group(kind, child) => !kind.is_assertion() && child.is_repeatable(),
            Node::Alternatives(nodes) => nodes.iter().all(Node::is_repeatable),
            _ => self.width() != Some(0),
        }
    }
}

impl Repeat {
    /// Write a repeated node. Only `*+`, `++` and `?+` are possessive in both dialects.
    fn write(self, child: &Node, out: &mut String, dialect: Dialect) {
        let quantifier = match (self.min, self.max) {
            (0, None) => "*".into(),
            (1, None) => "+".into(),
            (0, Some(1)) => "?".into(),
            (min, None) => format!("{{{min},}}"),
            (min, Some(max)) if min == max => format!("{{{min}}}"),
            (min, Some(max)) => format!("{{{min},{max}}}"),
        };
        let is_atomic = self.greed == Greed::Possessive && quantifier.len() > 1;
        if is_atomic {
            out.push_str("(?>");
        }
        if matches!(child, Node::Repeat(..)) {
            out.push_str("(?:");
            child.write(out, dialect);
            out.push(')');
        } else {
            child.write(out, dialect);
        }
        out.push_str(&quantifier);
        out.push_str(match self.greed {
            Greed::Lazy => "?",
            Greed::Possessive if !is_atomic => "+",
            _ => "",
        });
        if is_atomic {
            out.push(')');
        }
    }
}
