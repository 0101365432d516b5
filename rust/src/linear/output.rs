//! Where several threads write the parts of one product.

use std::marker::PhantomData;
use std::ops::Range;

/// The product: for each vector its `rows` values, one vector after the other.
///
/// Threads share it, and each one writes its own rows.
#[derive(Debug)]
pub struct Output<'a> {
    start: *mut f32,
    vectors: usize,
    rows: usize,
    values: PhantomData<&'a mut [f32]>,
}

// SAFETY: an output is a mutable slice of f32, which may go to another thread. Whoever writes through
// a shared one promises that no other thread accesses the same rows (see `multiply`).
unsafe impl Send for Output<'_> {}
// SAFETY: as above.
unsafe impl Sync for Output<'_> {}

impl<'a> Output<'a> {
    /// # Panics
    /// Panics unless `values` are whole vectors of `rows` values.
    pub fn new(values: &'a mut [f32], rows: usize) -> Self {
        let vectors = values.len().checked_div(rows).unwrap_or(0);
        assert_eq!(values.len(), vectors * rows);
        // SAFETY: the slice has that many values, and is borrowed for 'a.
        unsafe { Output::from_raw(values.as_mut_ptr(), vectors, rows) }
    }

    /// As `new`, of memory that other threads may be using.
    ///
    /// # Safety
    /// From `start`, there are `vectors * rows` values that stay valid for 'a.
    pub unsafe fn from_raw(start: *mut f32, vectors: usize, rows: usize) -> Self {
        Output {
            start,
            vectors,
            rows,
            values: PhantomData,
        }
    }

    /// The number of vectors.
    pub fn vectors(&self) -> usize {
        self.vectors
    }

    /// The number of values of a vector.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Borrow the values `rows` of a vector.
    ///
    /// # Safety
    /// Nothing else may access these values meanwhile.
    #[allow(clippy::mut_from_ref)] // that is what this type is for
    #[inline(always)]
    pub(super) unsafe fn of(&self, vector: usize, rows: Range<usize>) -> &mut [f32] {
        assert!(vector < self.vectors && rows.start <= rows.end && rows.end <= self.rows);
        // SAFETY: the values are within the slice by the check, and the caller has them alone.
        unsafe {
            let start = self.start.add(vector * self.rows + rows.start);
            std::slice::from_raw_parts_mut(start, rows.len())
        }
    }
}
