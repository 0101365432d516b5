//! The vectors that a matrix multiplies, in the form that its weights need.

use crate::linear::Matrix;
use crate::linear::blocks::BLOCK;

/// Some vectors of f32, prepared to be multiplied by a matrix of a certain kind.
///
/// For quantized weights, every 32 values become integers from -127 to 127 with a scale in f32, as in
/// llama.cpp's products. A block with a value that is not finite becomes NaN, and one without a value
/// above 4e-37 becomes zero.
#[derive(Debug, Clone)]
pub struct Activations {
    columns: usize,
    vectors: usize,
    is_quantized: bool,
    floats: Vec<f32>,
    blocks: Vec<[i8; BLOCK]>,
    scales: Vec<f32>,
    minus_sums: Vec<i32>,
}

impl Activations {
    /// No vectors yet, for `matrix` and others with as many columns and weights of the same kind:
    /// floating-point ones, or quantized ones.
    pub fn new(matrix: &Matrix) -> Self {
        Activations {
            columns: matrix.columns(),
            vectors: 0,
            is_quantized: matrix.is_quantized(),
            floats: Vec::new(),
            blocks: Vec::new(),
            scales: Vec::new(),
            minus_sums: Vec::new(),
        }
    }

    /// Replace the vectors by those in `x`, one after the other. Memory is kept for the next call.
    ///
    /// # Panics
    /// Panics unless `x` consists of whole vectors.
    pub fn set(&mut self, x: &[f32]) {
        self.vectors = x.len().checked_div(self.columns).unwrap_or(0);
        assert_eq!(x.len(), self.vectors * self.columns);
        if !self.is_quantized {
            self.floats.clear();
            self.floats.extend_from_slice(x);
            return;
        }
        let n = x.len() / BLOCK;
        self.blocks.resize(n, [0; BLOCK]);
        self.scales.resize(n, 0.0);
        self.minus_sums.resize(n, 0);
        let per_vector = self.columns / BLOCK;
        for (i, block) in x.as_chunks::<BLOCK>().0.iter().enumerate() {
            let to = i % per_vector * self.vectors + i / per_vector;
            (self.blocks[to], self.scales[to], self.minus_sums[to]) = quantize(block);
        }
    }

    /// The number of values of a vector.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// The number of vectors.
    pub fn vectors(&self) -> usize {
        self.vectors
    }

    /// The values of a vector.
    pub(super) fn floats(&self, vector: usize) -> &[f32] {
        &self.floats[vector * self.columns..][..self.columns]
    }

    /// Block `block` of every vector: the integers, the scales, and the sums of the integers times -1.
    pub(super) fn blocks(&self, block: usize) -> (&[[i8; BLOCK]], &[f32], &[i32]) {
        let at = block * self.vectors..(block + 1) * self.vectors;
        (
            &self.blocks[at.clone()],
            &self.scales[at.clone()],
            &self.minus_sums[at],
        )
    }

    pub(super) fn is_quantized(&self) -> bool {
        self.is_quantized
    }
}

/// Return integers, their scale and their sum times -1.
#[inline(always)]
fn quantize(x: &[f32; BLOCK]) -> ([i8; BLOCK], f32, i32) {
    // The bits of magnitudes ascend with them, and those of infinity and NaN are the largest.
    let largest = x
        .iter()
        .fold(0, |largest, x| largest.max(x.abs().to_bits()));
    let largest = f32::from_bits(largest);
    let inverse = 127.0 / largest;
    if !largest.is_finite() {
        return ([0; BLOCK], f32::NAN, 0);
    }
    if !inverse.is_finite() {
        return ([0; BLOCK], 0.0, 0);
    }
    // Near 1.5 * 2^23 the floating-point numbers are the integers, so the sum is rounded to the nearest
    // one, ties to even. Its lowest 8 bits are those of the rounded value.
    let q = x.map(|x| (x * inverse + 12_582_912.0).to_bits() as i8);
    let sum: i32 = q.iter().map(|&q| i32::from(q)).sum();
    (q, largest / 127.0, -sum)
}
