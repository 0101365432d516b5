//! Products by the vector instructions of x86-64.

mod avx512_blocks;
mod avx512_floats;

use std::ops::Range;

use crate::linear::{Activations, Matrix, Output, Weights};

/// Use AVX-512 with VNNI.
///
/// # Safety
/// The processor must have the instructions of `Level::Avx512`. Nothing else may access these rows of
/// `out` meanwhile.
pub(super) unsafe fn avx512(matrix: &Matrix, rows: Range<usize>, x: &Activations, out: &Output) {
    use self::avx512_blocks::{Q4_0, Q8_0, blocks};
    use self::avx512_floats::floats;

    // SAFETY: the caller promises it, and the weights are those of the matrix.
    unsafe {
        match matrix.weights() {
            Weights::F32(weights) => floats(weights, rows, x, out),
            Weights::Bf16(weights) => floats(weights, rows, x, out),
            Weights::Q8_0(_) => blocks::<Q8_0>(matrix, rows, x, out),
            Weights::Q4_0(_) => blocks::<Q4_0>(matrix, rows, x, out),
        }
    }
}
