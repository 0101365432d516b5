//! Products in plain Rust, in the order of operations that every level has for blocks.

use std::ops::Range;

use crate::linear::blocks::{BLOCK, Q4_0_BYTES, Q8_0_BYTES, bf16_to_f32, q4_0, q8_0, scale};
use crate::linear::{Activations, Matrix, Output, Weights};

/// The partial sums of a product of floating-point numbers.
const LANES: usize = 16;

/// # Safety
/// Nothing else may access these rows of `out` meanwhile.
pub(super) unsafe fn multiply(matrix: &Matrix, rows: Range<usize>, x: &Activations, out: &Output) {
    let columns = matrix.columns();
    for row in rows {
        // SAFETY: the caller promises it.
        let store = |vector, value| unsafe { out.of(vector, row..row + 1)[0] = value };
        match matrix.weights() {
            Weights::F32(weights) => {
                let weights = &weights[row * columns..][..columns];
                floats(weights, |w| w, x, store);
            }
            Weights::Bf16(weights) => {
                let weights = &weights[row * columns..][..columns];
                floats(weights, bf16_to_f32, x, store);
            }
            Weights::Q8_0(bytes) => {
                let n = columns / BLOCK * Q8_0_BYTES;
                blocks::<Q8_0_BYTES>(&bytes[row * n..][..n], q8_0, x, store);
            }
            Weights::Q4_0(bytes) => {
                let n = columns / BLOCK * Q4_0_BYTES;
                blocks::<Q4_0_BYTES>(&bytes[row * n..][..n], q4_0, x, store);
            }
        }
    }
}

fn floats<W: Copy>(
    weights: &[W],
    to_f32: impl Fn(W) -> f32,
    x: &Activations,
    store: impl Fn(usize, f32),
) {
    for vector in 0..x.vectors() {
        let mut sums = [0.0; LANES];
        for (w, x) in weights.chunks(LANES).zip(x.floats(vector).chunks(LANES)) {
            for ((sum, &w), &x) in sums.iter_mut().zip(w).zip(x) {
                *sum += to_f32(w) * x;
            }
        }
        store(vector, sums.iter().sum());
    }
}

fn blocks<const BYTES: usize>(
    weights: &[u8],
    integers: fn(&[u8]) -> [i8; BLOCK],
    x: &Activations,
    store: impl Fn(usize, f32),
) {
    // A batch of vectors at a time, so that the integers of a block are read once for all of them.
    const BATCH: usize = 64;
    for start in (0..x.vectors()).step_by(BATCH) {
        let vectors = start..x.vectors().min(start + BATCH);
        let mut sums = [0.0f32; BATCH];
        for (i, block) in weights.as_chunks::<BYTES>().0.iter().enumerate() {
            let (w, w_scale) = (integers(block), scale(block));
            let (q, scales, _) = x.blocks(i);
            for (sum, vector) in sums.iter_mut().zip(vectors.clone()) {
                let products = w.iter().zip(&q[vector]);
                let dot: i32 = products.map(|(&w, &q)| i32::from(w) * i32::from(q)).sum();
                *sum += dot as f32 * (w_scale * scales[vector]);
            }
        }
        for (vector, &sum) in vectors.zip(&sums) {
            store(vector, sum);
        }
    }
}
