//! Products by the vector instructions of 64-bit ARM.

mod blocks;
mod floats;

use std::ops::Range;

use self::blocks::{Q4_0, Q8_0, tile};
use self::floats::floats;
use crate::linear::tiles::tiles;
use crate::linear::{Activations, Matrix, Output, Weights};

/// Use NEON.
///
/// # Safety
/// The processor must have the instructions of `Level::Neon`. Nothing else may access these rows of
/// `out` meanwhile.
pub(super) unsafe fn neon(matrix: &Matrix, rows: Range<usize>, x: &Activations, out: &Output) {
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
