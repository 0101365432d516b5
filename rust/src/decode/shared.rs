//! Floats that the threads of a step write, each its own part of them.

use std::marker::PhantomData;
use std::ops::Range;

use crate::linear::Output;

/// A matrix of floats, row by row, for all threads of a step.
///
/// In one part of a step, threads either only read it or write places that no other thread uses.
/// `Worker::each` keeps the parts apart.
pub struct Shared<'a> {
    start: *mut f32,
    length: usize,
    width: usize,
    values: PhantomData<&'a mut [f32]>,
}

// SAFETY: it is a mutable slice; who uses its unsafe methods keeps the threads apart.
unsafe impl Sync for Shared<'_> {}

impl<'a> Shared<'a> {
    /// Share rows of `width` floats.
    pub fn new(values: &'a mut [f32], width: usize) -> Self {
        Shared {
            start: values.as_mut_ptr(),
            length: values.len(),
            width,
            values: PhantomData,
        }
    }

    /// Return a part of a row, for reading.
    ///
    /// # Safety
    /// Nothing may write to it meanwhile.
    pub unsafe fn read(&self, row: usize, columns: Range<usize>) -> &[f32] {
        let start = self.place(row, &columns);
        // SAFETY: `place` has checked the bounds; the caller promises the rest.
        unsafe { std::slice::from_raw_parts(self.start.add(start), columns.len()) }
    }

    /// Return a part of a row, for writing.
    ///
    /// # Safety
    /// Nothing else may use it meanwhile.
    #[allow(clippy::mut_from_ref)] // this is what the type is for
    pub unsafe fn write(&self, row: usize, columns: Range<usize>) -> &mut [f32] {
        let start = self.place(row, &columns);
        // SAFETY: `place` has checked the bounds; the caller promises the rest.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(start), columns.len()) }
    }

    /// Return where a product writes `n` rows from `row` on.
    pub fn output(&self, row: usize, n: usize) -> Output<'_> {
        let start = row * self.width;
        assert!(start + n * self.width <= self.length);
        // SAFETY: that many floats are there for as long as `self` is.
        unsafe { Output::from_raw(self.start.add(start), n, self.width) }
    }

    fn place(&self, row: usize, columns: &Range<usize>) -> usize {
        let start = row * self.width + columns.start;
        assert!(
            columns.start <= columns.end
                && columns.end <= self.width
                && start + columns.len() <= self.length
        );
        start
    }
}
