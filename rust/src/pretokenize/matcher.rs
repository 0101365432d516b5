//! Matching an expression where the crate `fancy-regex` gives up: in very long matches.
//!
//! The crate remembers a place to go back to for every character that a loop takes, and has room for a
//! million of them. Here a loop over single characters, such as `\s+`, is one place, however long it is.

mod program;

pub(crate) use self::program::CharSet;
pub(super) use self::program::only_set;
use self::program::{Instruction, compile};
use super::dialect::{Greed, GroupKind, Node, Repeat};
use crate::error::Error;

/// The most places to go back to: half a gigabyte.
const MAX_PLACES: usize = 1 << 24;

/// How often to ask whether to go on, in steps.
const CHECK_STEPS: u64 = 1 << 16;

/// An expression as a program.
#[derive(Debug)]
pub(super) struct Matcher {
    program: Vec<Instruction>,
}

/// A place to go back to.
#[derive(Debug, Clone, Copy)]
enum Place {
    At {
        pc: usize,
        at: usize,
    },
    /// After a loop that may take less, down to `least`.
    Less {
        pc: usize,
        least: usize,
        at: usize,
    },
    /// At a lazy loop that may take more.
    More {
        pc: usize,
        at: usize,
        left: u32,
    },
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Failure {
    TooManySteps,
    Stopped(Error),
}

/// One search.
struct Search<'a, F> {
    program: &'a [Instruction],
    text: &'a str,
    n_steps: u64,
    max_steps: u64,
    /// Fails if the search is to end.
    check: F,
}

impl Matcher {
    /// Compile an expression; None if the program would be too long.
    pub(super) fn new(tree: &Node) -> Option<Self> {
        let mut program = Vec::new();
        compile(tree, &mut program)?;
        program.push(Instruction::Accept);
        Some(Matcher { program })
    }

    /// Return where the match that begins at `start` ends.
    ///
    /// # Errors
    /// Fails if `check` fails, or after steps in proportion to the length of the text.
    pub(super) fn match_at(
        &self,
        text: &str,
        start: usize,
        check: impl FnMut() -> Result<(), Error>,
    ) -> Result<Option<usize>, Failure> {
        let mut search = Search {
            program: &self.program,
            text,
            n_steps: 0,
            max_steps: 1_000_000 + 100 * text.len() as u64,
            check,
        };
        search.run(0, start)
    }
}

impl<F: FnMut() -> Result<(), Error>> Search<'_, F> {
    fn step(&mut self) -> Result<(), Failure> {
        self.n_steps += 1;
        if self.n_steps > self.max_steps {
            return Err(Failure::TooManySteps);
        }
        if self.n_steps.is_multiple_of(CHECK_STEPS) {
            (self.check)().map_err(Failure::Stopped)?;
        }
        Ok(())
    }

    /// Run the program from `pc` on up to [`Instruction::Accept`], and return where the match ends.
    fn run(&mut self, mut pc: usize, mut at: usize) -> Result<Option<usize>, Failure> {
        let program = self.program;
        let mut places: Vec<Place> = Vec::new();
        loop {
            self.step()?;
            let next = match &program[pc] {
                Instruction::Accept => return Ok(Some(at)),
                Instruction::Char(set) => set.end(self.text, at).map(|end| (pc + 1, end)),
                Instruction::Start => (at == 0).then_some((pc + 1, at)),
                Instruction::End => (at == self.text.len()).then_some((pc + 1, at)),
                Instruction::Jump(to) => Some((*to, at)),
                Instruction::Split(first, second) => {
                    places.push(Place::At { pc: *second, at });
                    Some((*first, at))
                }
                &Instruction::Group { kind, width, next } => {
                    self.group(pc + 1, at, kind, width)?.map(|end| (next, end))
                }
                Instruction::Run(set, repeat) => self
                    .loop_over(set, *repeat, at, pc, &mut places)?
                    .map(|end| (pc + 1, end)),
            };
            if places.len() > MAX_PLACES {
                return Err(Failure::TooManySteps);
            }
            let next = match next {
                Some(next) => Some(next),
                None => self.back(&mut places)?,
            };
            let Some(next) = next else {
                return Ok(None);
            };
            (pc, at) = next;
        }
    }

    /// Match the group that begins at `pc` by itself, and return where to go on.
    fn group(
        &mut self,
        pc: usize,
        at: usize,
        kind: GroupKind,
        width: usize,
    ) -> Result<Option<usize>, Failure> {
        let start = match kind {
            GroupKind::Behind | GroupKind::NotBehind if width > 0 => self.text[..at]
                .char_indices()
                .rev()
                .nth(width - 1)
                .map(|(start, _)| start),
            _ => Some(at),
        };
        let end = match start {
            Some(start) => self.run(pc, start)?,
            None => None,
        };
        Ok(match kind {
            GroupKind::Plain | GroupKind::Atomic => end,
            GroupKind::Ahead | GroupKind::Behind => end.map(|_| at),
            GroupKind::NotAhead | GroupKind::NotBehind => end.is_none().then_some(at),
        })
    }

    /// Take the characters of a loop, and remember how it could take fewer or more.
    fn loop_over(
        &mut self,
        set: &CharSet,
        repeat: Repeat,
        start: usize,
        pc: usize,
        places: &mut Vec<Place>,
    ) -> Result<Option<usize>, Failure> {
        let mut at = start;
        for _ in 0..repeat.min {
            let Some(end) = set.end(self.text, at) else {
                return Ok(None);
            };
            at = end;
        }
        let least = at;
        let mut left = repeat.max.map_or(u32::MAX, |max| max - repeat.min);
        if repeat.greed == Greed::Lazy {
            places.push(Place::More { pc, at, left });
            return Ok(Some(at));
        }
        while left > 0 {
            let Some(end) = set.end(self.text, at) else {
                break;
            };
            at = end;
            left -= u32::from(repeat.max.is_some());
            self.step()?;
        }
        if at > least && repeat.greed == Greed::Greedy {
            places.push(Place::Less {
                pc: pc + 1,
                least,
                at,
            });
        }
        Ok(Some(at))
    }

    /// Go back to the last place.
    fn back(&mut self, places: &mut Vec<Place>) -> Result<Option<(usize, usize)>, Failure> {
        while let Some(place) = places.pop() {
            self.step()?;
            match place {
                Place::At { pc, at } => return Ok(Some((pc, at))),
                Place::Less { pc, least, at } => {
                    let length = self.text[..at]
                        .chars()
                        .next_back()
                        .map_or(1, char::len_utf8);
                    let at = at - length;
                    if at > least {
                        places.push(Place::Less { pc, least, at });
                    }
                    return Ok(Some((pc, at)));
                }
                Place::More { pc, at, left } => {
                    let Instruction::Run(set, repeat) = &self.program[pc] else {
                        unreachable!("only loops take more");
                    };
                    if let Some(at) = set.end(self.text, at).filter(|_| left > 0) {
                        let left = left - u32::from(repeat.max.is_some());
                        places.push(Place::More { pc, at, left });
                        return Ok(Some((pc + 1, at)));
                    }
                }
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
pub(super) mod tests;
