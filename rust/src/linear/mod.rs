//! A matrix of weights times a few vectors: the linear layers of a model on a CPU.
//!
//! [`naive`] is the definition. The weights are f32, bf16, or GGUF's blocks Q8_0 and Q4_0, read where
//! they lie. [`Activations`] hold the vectors in the form that the weights need. [`multiply`] computes
//! some rows of the product, which is the work of one thread; [`multiply_parallel`] computes all.
//!
//! The fastest instructions that the processor has are chosen at run time ([`Level`]). A product of
//! one row and one vector is computed in the same order of operations whatever the other rows and
//! vectors are, and whatever thread computes it. So a vector's result never depends on its neighbours,
//! bit by bit. Blocks also have the same results at every level, and floats at all that fuse
//! multiplication and addition.
//!
//! ```
//! use gptfast_rust::linear::{Activations, Matrix, Weights, multiply_parallel};
//!
//! let weights = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
//! let matrix = Matrix::new(Weights::F32(&weights), 2, 3)?;
//! let mut x = Activations::new(&matrix);
//! x.set(&[1.0, 1.0, 1.0, 0.0, 1.0, 0.0]); // two vectors
//! let mut out = [0.0; 4];
//! multiply_parallel(&matrix, &x, &mut out, 1)?;
//! assert_eq!(out, [6.0, 15.0, 2.0, 5.0]);
//! # Ok::<(), gptfast_rust::error::Error>(())
//! ```

#[cfg(target_arch = "aarch64")]
mod aarch64;
mod activations;
mod blocks;
mod level;
mod matrix;
pub mod naive;
mod output;
mod parallel;
mod portable;
#[cfg(any(target_arch = "aarch64", target_arch = "x86_64"))]
mod tiles;
#[cfg(target_arch = "x86_64")]
mod x86_64;

pub use self::activations::Activations;
pub use self::level::Level;
pub use self::matrix::{Matrix, Weights};
pub use self::output::Output;
pub use self::parallel::{TILE, multiply_parallel, share};

use std::ops::Range;

/// Compute `rows` of the product of `matrix` and every vector of `x`.
///
/// # Safety
/// While this runs, no other thread may access the same rows of `out`.
///
/// # Panics
/// Panics if `x` or `out` was made for another matrix, or `rows` ends beyond it.
pub unsafe fn multiply(matrix: &Matrix, rows: Range<usize>, x: &Activations, out: &Output) {
    // SAFETY: the caller promises it, and `best` is a level of this processor.
    unsafe { multiply_at(Level::best(), matrix, rows, x, out) }
}

/// As [`multiply`], with the instructions of `level`.
///
/// # Safety
/// While this runs, no other thread may access the same rows of `out`, and the processor must have
/// `level` ([`Level::available`]).
///
/// # Panics
/// Panics if `x` or `out` was made for another matrix, or `rows` ends beyond it.
pub unsafe fn multiply_at(
    level: Level,
    matrix: &Matrix,
    rows: Range<usize>,
    x: &Activations,
    out: &Output,
) {
    if rows.is_empty() {
        return;
    }
    assert!(rows.end <= matrix.rows());
    assert_eq!(x.columns(), matrix.columns());
    assert_eq!(x.is_quantized(), matrix.is_quantized());
    assert_eq!((out.vectors(), out.rows()), (x.vectors(), matrix.rows()));
    match level {
        // SAFETY: the caller promises it.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { x86_64::avx2(matrix, rows, x, out) },
        // SAFETY: the caller promises it.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { x86_64::avx512(matrix, rows, x, out) },
        // SAFETY: the caller promises it.
        #[cfg(target_arch = "aarch64")]
        Level::Neon => unsafe { aarch64::neon(matrix, rows, x, out) },
        // SAFETY: the caller promises it.
        Level::Portable => unsafe { portable::multiply(matrix, rows, x, out) },
    }
}
