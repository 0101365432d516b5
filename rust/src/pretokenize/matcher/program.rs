//! An expression as a program.

use regex_syntax::hir::ClassUnicode;

use super::super::dialect::{Greed, GroupKind, Node, Repeat};

/// The largest program, in instructions. Counts such as `{1000}` are unrolled.
const MAX_PROGRAM: usize = 1 << 16;

/// A step of a program.
#[derive(Debug)]
pub(super) enum Instruction {
    Char(CharSet),
    /// A loop over single characters.
    Run(CharSet, Repeat),
    /// Go on at the first; if that fails, at the second.
    Split(usize, usize),
    Jump(usize),
    Start,
    End,
    /// Match what follows up to [`Instruction::Accept`] by itself, then go on at `next`.
    Group {
        kind: GroupKind,
        width: usize,
        next: usize,
    },
    Accept,
}

/// A set of characters.
#[derive(Debug, Clone, Default)]
pub(crate) struct CharSet {
    ascii: u128,
    ranges: Vec<(char, char)>,
}

/// Add the instructions of `node`; None if the program gets too long.
pub(super) fn compile(node: &Node, program: &mut Vec<Instruction>) -> Option<()> {
    if program.len() > MAX_PROGRAM {
        return None;
    }
    match node {
        Node::Empty => {}
        Node::Char { set, .. } => program.push(Instruction::Char(CharSet::new(set))),
        Node::Start => program.push(Instruction::Start),
        Node::End => program.push(Instruction::End),
        Node::Concat(nodes) => {
            for node in nodes {
                compile(node, program)?;
            }
        }
        Node::Alternatives(nodes) => {
            let (last, others) = nodes.split_last()?;
            let mut jumps = Vec::new();
            for node in others {
                let split = program.len();
                program.push(Instruction::Split(split + 1, 0));
                compile(node, program)?;
                jumps.push(program.len());
                program.push(Instruction::Jump(0));
                program[split] = Instruction::Split(split + 1, program.len());
            }
            compile(last, program)?;
            for jump in jumps {
                program[jump] = Instruction::Jump(program.len());
            }
        }
        Node::Group(GroupKind::Plain, child) | Node::Folded { child, .. } => {
            compile(child, program)?;
        }
        Node::Group(kind, child) => {
            group(*kind, program, |program| compile(child, program), child)?
        }
        Node::Repeat(repeat, child) => compile_repeat(*repeat, child, program)?,
    }
    Some(())
}

/// Add a group that is matched by itself.
fn group(
    kind: GroupKind,
    program: &mut Vec<Instruction>,
    body: impl FnOnce(&mut Vec<Instruction>) -> Option<()>,
    child: &Node,
) -> Option<()> {
    let at = program.len();
    program.push(Instruction::Accept);
    body(program)?;
    program.push(Instruction::Accept);
    let width = child.width().unwrap_or(0) as usize;
    let next = program.len();
    program[at] = Instruction::Group { kind, width, next };
    Some(())
}

fn compile_repeat(repeat: Repeat, child: &Node, program: &mut Vec<Instruction>) -> Option<()> {
    if let Some(set) = only_set(child) {
        program.push(Instruction::Run(CharSet::new(set), repeat));
        return Some(());
    }
    if repeat.greed == Greed::Possessive {
        let greedy = Repeat {
            greed: Greed::Greedy,
            ..repeat
        };
        let body = |program: &mut Vec<_>| compile_repeat(greedy, child, program);
        return group(GroupKind::Atomic, program, body, child);
    }
    for _ in 0..repeat.min {
        compile(child, program)?;
    }
    let split = |here: usize, end: usize| match repeat.greed {
        Greed::Lazy => Instruction::Split(end, here + 1),
        _ => Instruction::Split(here + 1, end),
    };
    match repeat.max {
        None => {
            let start = program.len();
            program.push(Instruction::Accept);
            compile(child, program)?;
            program.push(Instruction::Jump(start));
            program[start] = split(start, program.len());
        }
        Some(max) => {
            let mut splits = Vec::new();
            for _ in repeat.min..max {
                splits.push(program.len());
                program.push(Instruction::Accept);
                compile(child, program)?;
            }
            for here in splits {
                program[here] = split(here, program.len());
            }
        }
    }
    Some(())
}

/// The set of an expression that is one character.
pub(in super::super) fn only_set(node: &Node) -> Option<&ClassUnicode> {
    match node {
        Node::Char { set, .. } => Some(set),
        Node::Group(GroupKind::Plain, child) | Node::Folded { child, .. } => only_set(child),
        _ => None,
    }
}

impl CharSet {
    pub(in super::super) fn new(set: &ClassUnicode) -> Self {
        let ranges: Vec<_> = set
            .iter()
            .map(|range| (range.start(), range.end()))
            .collect();
        let mut ascii = 0;
        for byte in 0..128u8 {
            let c = char::from(byte);
            if ranges.iter().any(|&(first, last)| first <= c && c <= last) {
                ascii |= 1 << byte;
            }
        }
        CharSet { ascii, ranges }
    }

    pub(in super::super) fn contains(&self, c: char) -> bool {
        if c.is_ascii() {
            return self.ascii >> u32::from(c) & 1 == 1;
        }
        let after = self.ranges.partition_point(|&(first, _)| first <= c);
        after > 0 && c <= self.ranges[after - 1].1
    }

    /// The end of the character at `at`, if it is in the set.
    pub(super) fn end(&self, text: &str, at: usize) -> Option<usize> {
        let c = text[at..].chars().next()?;
        self.contains(c).then(|| at + c.len_utf8())
    }
}
