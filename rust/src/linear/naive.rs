//! The definition of a product, as short and as slow as it gets.
//!
//! Tests check [`multiply`](crate::linear::multiply) against it.

use crate::linear::blocks::{BLOCK, Q4_0_BYTES, Q8_0_BYTES, bf16_to_f32, q4_0, q8_0, scale};
use crate::linear::{Matrix, Weights};

/// Return the weights as f32, row by row. This is exact.
///
/// ```
/// use gptfast_rust::linear::{Matrix, Weights, naive};
///
/// let mut block = vec![0u8; 34];
/// block[..2].copy_from_slice(&[0, 0x38]); // the scale, 0.5
/// block[2] = 3;
/// let matrix = Matrix::new(Weights::Q8_0(&block), 1, 32)?;
/// assert_eq!(naive::dequantize(&matrix)[..2], [1.5, 0.0]);
/// # Ok::<(), gptfast_rust::error::Error>(())
/// ```
pub fn dequantize(matrix: &Matrix) -> Vec<f32> {
    fn of(blocks: &[u8], n_bytes: usize, q: fn(&[u8]) -> [i8; BLOCK]) -> Vec<f32> {
        let values = |block| q(block).map(|q| scale(block) * f32::from(q));
        blocks.chunks_exact(n_bytes).flat_map(values).collect()
    }
    match matrix.weights() {
        Weights::F32(values) => values.to_vec(),
        Weights::Bf16(values) => values.iter().map(|&bits| bf16_to_f32(bits)).collect(),
        Weights::Q8_0(blocks) => of(blocks, Q8_0_BYTES, q8_0),
        Weights::Q4_0(blocks) => of(blocks, Q4_0_BYTES, q4_0),
    }
}

/// Return the product of `matrix` and each of the vectors in `x`, one vector after the other, in f64.
pub fn multiply(matrix: &Matrix, x: &[f32]) -> Vec<f64> {
    let weights = dequantize(matrix);
    let mut out = Vec::new();
    for vector in x.chunks_exact(matrix.columns()) {
        for row in weights.chunks_exact(matrix.columns()) {
            let products = row
                .iter()
                .zip(vector)
                .map(|(&w, &x)| f64::from(w) * f64::from(x));
            out.push(products.sum());
        }
    }
    out
}
