//! Products in plain Rust.

use std::ops::Range;

use crate::linear::blocks::{BLOCK, Q4_0_BYTES, Q8_0_BYTES, bf16_to_f32, q4_0, q8_0, scale};
use crate::linear::{Activations, Matrix, Output, Weights};

/// # Safety
/// Nothing else may access these rows of `out` meanwhile.
pub(super) unsafe fn multiply(matrix: &Matrix, rows: Range<usize>, x: &Activations, out: &Output) {
    // SAFETY: the caller promises it.
    unsafe {
        match matrix.weights() {
            Weights::F32(weights) => floats(weights, rows, x, out),
            Weights::Bf16(weights) => floats(weights, rows, x, out),
            Weights::Q8_0(bytes) => blocks::<Q8_0_BYTES>(bytes, q8_0, rows, x, out),
            Weights::Q4_0(bytes) => blocks::<Q4_0_BYTES>(bytes, q4_0, rows, x, out),
        }
    }
}

/// A type of floating-point weights.
trait Float: Copy {
    fn to_f32(self) -> f32;
}

impl Float for f32 {
    #[inline(always)]
    fn to_f32(self) -> f32 {
        self
    }
}

impl Float for u16 {
    #[inline(always)]
    fn to_f32(self) -> f32 {
        bf16_to_f32(self)
    }
}

/// The partial sums of a product of floating-point numbers, which the compiler keeps in registers.
const LANES: usize = 16;

/// # Safety
/// Nothing else may access these rows of `out` meanwhile.
unsafe fn floats<W: Float>(weights: &[W], rows: Range<usize>, x: &Activations, out: &Output) {
    for row in rows {
        let weights = &weights[row * x.columns()..][..x.columns()];
        let (whole_w, rest_w) = weights.as_chunks::<LANES>();
        for vector in 0..x.vectors() {
            let (whole_x, rest_x) = x.floats(vector).as_chunks::<LANES>();
            let mut sums = [0.0; LANES];
            for (w, x) in whole_w.iter().zip(whole_x) {
                for i in 0..LANES {
                    sums[i] = add_product(sums[i], w[i].to_f32(), x[i]);
                }
            }
            for (i, (w, &x)) in rest_w.iter().zip(rest_x).enumerate() {
                sums[i] = add_product(sums[i], w.to_f32(), x);
            }
            // SAFETY: the caller promises it.
            unsafe { out.of(vector, row..row + 1)[0] = sum_of(sums) };
        }
    }
}

#[inline(always)]
fn add_product(sum: f32, w: f32, x: f32) -> f32 {
    // Elsewhere than on ARM, a fused multiplication and addition may be a slow function.
    if cfg!(target_arch = "aarch64") {
        w.mul_add(x, sum)
    } else {
        sum + w * x
    }
}

/// Add the lower and the upper half, again and again.
#[inline(always)]
fn sum_of(mut sums: [f32; LANES]) -> f32 {
    let mut n = LANES / 2;
    while n > 0 {
        for i in 0..n {
            sums[i] += sums[n + i];
        }
        n /= 2;
    }
    sums[0]
}

/// Compute in the order of operations that every level has for blocks.
///
/// # Safety
/// Nothing else may access these rows of `out` meanwhile.
unsafe fn blocks<const BYTES: usize>(
    bytes: &[u8],
    integers: fn(&[u8]) -> [i8; BLOCK],
    rows: Range<usize>,
    x: &Activations,
    out: &Output,
) {
    // A batch of vectors at a time, so that the integers of a block are read once for all of them.
    const BATCH: usize = 64;
    let per_row = x.columns() / BLOCK;
    let (blocks, _) = bytes.as_chunks::<BYTES>();
    for row in rows {
        for start in (0..x.vectors()).step_by(BATCH) {
            let vectors = start..x.vectors().min(start + BATCH);
            let mut sums = [0.0f32; BATCH];
            for (i, block) in blocks[row * per_row..][..per_row].iter().enumerate() {
                let (w, w_scale) = (integers(block), scale(block));
                let (q, scales, _) = x.blocks(i);
                for (sum, vector) in sums.iter_mut().zip(vectors.clone()) {
                    let products = w.iter().zip(&q[vector]);
                    let dot: i32 = products.map(|(&w, &q)| i32::from(w) * i32::from(q)).sum();
                    *sum += dot as f32 * (w_scale * scales[vector]);
                }
            }
            for (vector, &sum) in vectors.zip(&sums) {
                // SAFETY: the caller promises it.
                unsafe { out.of(vector, row..row + 1)[0] = sum };
            }
        }
    }
}
