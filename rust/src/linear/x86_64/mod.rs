//! Products by the vector instructions of x86-64.

mod avx2_blocks;
mod avx2_floats;
mod avx512_blocks;
mod avx512_floats;

use std::ops::Range;

use crate::linear::tiles::tiles;
use crate::linear::{Activations, Matrix, Output, Weights};

/// How far ahead to prefetch at least, in bytes: memory answers late.
const MIN_AHEAD: usize = 16 << 10;

/// Use AVX-512.
///
/// # Safety
/// The processor must have the instructions of `Level::Avx512`. Nothing else may access these rows of
/// `out` meanwhile.
pub(super) unsafe fn avx512(matrix: &Matrix, rows: Range<usize>, x: &Activations, out: &Output) {
    use self::avx512_blocks::{Q4_0, Q8_0, tile};
    use self::avx512_floats::floats;

    // SAFETY: the caller promises it, and the weights are those of the matrix.
    unsafe {
        match matrix.weights() {
            Weights::F32(weights) => floats(weights, rows, x, out),
            Weights::Bf16(weights) => floats(weights, rows, x, out),
            Weights::Q8_0(bytes) => tiles(bytes, tile::<Q8_0>, matrix, rows, x, out),
            Weights::Q4_0(bytes) => tiles(bytes, tile::<Q4_0>, matrix, rows, x, out),
        }
    }
}

/// Use AVX2.
///
/// # Safety
/// The processor must have the instructions of `Level::Avx2`. Nothing else may access these rows of
/// `out` meanwhile.
pub(super) unsafe fn avx2(matrix: &Matrix, rows: Range<usize>, x: &Activations, out: &Output) {
    use self::avx2_blocks::{Q4_0, Q8_0, tile};
    use self::avx2_floats::floats;

    // SAFETY: the caller promises it, and the weights are those of the matrix.
    unsafe {
        match matrix.weights() {
            Weights::F32(weights) => floats(weights, rows, x, out),
            Weights::Bf16(weights) => floats(weights, rows, x, out),
            Weights::Q8_0(bytes) => tiles(bytes, tile::<Q8_0>, matrix, rows, x, out),
            Weights::Q4_0(bytes) => tiles(bytes, tile::<Q4_0>, matrix, rows, x, out),
        }
    }
}
