//! Products of blocks, some rows at a time.

use std::ops::Range;

use crate::linear::{Activations, Matrix, Output, portable};

/// The vectors whose sums are kept at a time, in the nearest cache.
const BATCH: usize = 64;

/// Computes the products of T rows of blocks and as many vectors, from a first one on, as there are sums.
///
/// Its arguments are T rows, or more, the bytes of a row, the vectors, the number of the first vector, and
/// the sums. The processor must have the instructions of its level.
pub type Tile<const T: usize> = unsafe fn(&[u8], usize, &Activations, usize, &mut [[f32; T]]);

/// Compute `rows` of a product, T rows at a time.
///
/// # Safety
/// The processor must have the instructions of `tile`, and `bytes` be the weights of the matrix. Nothing
/// else may access these rows of `out` meanwhile.
pub unsafe fn tiles<const T: usize>(
    bytes: &[u8],
    tile: Tile<T>,
    matrix: &Matrix,
    rows: Range<usize>,
    x: &Activations,
    out: &Output,
) {
    if matrix.rows() < T {
        // SAFETY: the caller promises it. The results are the same.
        return unsafe { portable::multiply(matrix, rows, x, out) };
    }
    let stride = bytes.len() / matrix.rows();
    let mut sums = [[0.0; T]; BATCH];
    for row in rows.clone().step_by(T) {
        let end = rows.end.min(row + T);
        // The last tile begins earlier, and its first rows are not stored.
        let first = row.min(matrix.rows() - T);
        for start in (0..x.vectors()).step_by(BATCH) {
            let vectors = start..x.vectors().min(start + BATCH);
            let sums = &mut sums[..vectors.len()];
            // SAFETY: there are T rows from `first` on, and the caller promises the rest.
            unsafe { tile(&bytes[first * stride..], stride, x, start, sums) };
            for (vector, sums) in vectors.zip(sums) {
                // SAFETY: the caller promises it.
                let to = unsafe { out.of(vector, row..end) };
                to.copy_from_slice(&sums[row - first..end - first]);
            }
        }
    }
}
