//! How pre-tokens get from a scanner to the code that uses them.

use crate::error::Error;

/// The most pre-tokens that a [`Visitor`] gets at once.
pub const BATCH_PIECES: usize = 128;

/// Uses the pre-tokens of a text.
///
/// It gets many at a time so that it can prefetch memory for all of them before it reads any.
pub trait Visitor {
    /// Take consecutive pre-tokens, by positions in bytes: the first begins at `start`, and each ends
    /// where the next one begins, at one of `ends`, which has at most [`BATCH_PIECES`] entries.
    ///
    /// An error ends the splitting. `ends` may be empty, which only gives the visitor a chance to return
    /// one.
    fn pieces(&mut self, start: usize, ends: &[usize]) -> Result<(), Error>;
}

impl<F: FnMut(usize, usize) -> Result<(), Error>> Visitor for F {
    #[inline(always)]
    fn pieces(&mut self, mut start: usize, ends: &[usize]) -> Result<(), Error> {
        for &end in ends {
            self(start, end)?;
            start = end;
        }
        Ok(())
    }
}

/// Visits a part of a text, and adds the start of that part to all positions.
pub(crate) struct OffsetVisitor<'v, V> {
    pub(crate) visitor: &'v mut V,
    pub(crate) offset: usize,
}

impl<V: Visitor> Visitor for OffsetVisitor<'_, V> {
    fn pieces(&mut self, start: usize, ends: &[usize]) -> Result<(), Error> {
        let mut shifted = [0; BATCH_PIECES];
        for (shifted, &end) in shifted.iter_mut().zip(ends) {
            *shifted = self.offset + end;
        }
        self.visitor
            .pieces(self.offset + start, &shifted[..ends.len()])
    }
}

/// Collects pre-tokens for a visitor.
pub(crate) struct PieceBuffer<'v, V> {
    visitor: &'v mut V,
    start: usize,
    pub(super) ends: [usize; BATCH_PIECES],
    pub(super) n: usize,
}

impl<'v, V: Visitor> PieceBuffer<'v, V> {
    #[inline(always)]
    pub(crate) fn new(visitor: &'v mut V) -> Self {
        PieceBuffer {
            visitor,
            start: 0,
            ends: [0; BATCH_PIECES],
            n: 0,
        }
    }

    /// Add the next pre-token, which ends at `end`.
    #[inline(always)]
    pub(crate) fn push(&mut self, end: usize) -> Result<(), Error> {
        self.push_if(true, end)
    }

    /// Add the next pre-token if it ends at `end`, without a branch.
    #[inline(always)]
    pub(crate) fn push_if(&mut self, ends: bool, end: usize) -> Result<(), Error> {
        self.ends[self.n] = end;
        self.n += usize::from(ends);
        if self.n == BATCH_PIECES {
            self.flush()?;
        }
        Ok(())
    }

    /// Pass all collected pre-tokens to the visitor.
    #[inline(always)]
    pub(crate) fn flush(&mut self) -> Result<(), Error> {
        let ends = &self.ends[..self.n];
        if let Some(&last) = ends.last() {
            self.visitor.pieces(self.start, ends)?;
            self.start = last;
            self.n = 0;
        }
        Ok(())
    }
}
