//! Matrices of weights, in the memory of others.

use crate::error::Error;
use crate::linear::blocks::{BLOCK, Q4_0_BYTES, Q8_0_BYTES};

/// The weights of a matrix, row by row.
#[derive(Debug, Clone, Copy)]
pub enum Weights<'a> {
    /// f32.
    F32(&'a [f32]),
    /// bf16: the upper 16 bits of an f32.
    Bf16(&'a [u16]),
    /// GGUF's Q8_0: for 32 weights an f16 scale, then 32 i8. A weight is scale * q.
    Q8_0(&'a [u8]),
    /// GGUF's Q4_0: for 32 weights an f16 scale, then 16 bytes. Byte i has q of weight i in its lower
    /// half, and of weight 16 + i in its upper half. A weight is scale * (q - 8).
    Q4_0(&'a [u8]),
}

/// A matrix, which maps vectors of `columns` values to vectors of `rows` values.
#[derive(Debug, Clone, Copy)]
pub struct Matrix<'a> {
    weights: Weights<'a>,
    rows: usize,
    columns: usize,
}

impl<'a> Matrix<'a> {
    /// # Errors
    /// Fails if `weights` is not of this size, or if blocks don't divide the columns.
    pub fn new(weights: Weights<'a>, rows: usize, columns: usize) -> Result<Self, Error> {
        let (has, units, of) = match weights {
            Weights::F32(values) => (values.len(), Some(columns), "values"),
            Weights::Bf16(values) => (values.len(), Some(columns), "values"),
            Weights::Q8_0(bytes) => (bytes.len(), row_bytes(columns, Q8_0_BYTES)?, "bytes"),
            Weights::Q4_0(bytes) => (bytes.len(), row_bytes(columns, Q4_0_BYTES)?, "bytes"),
        };
        let expected = units.and_then(|units| units.checked_mul(rows));
        if expected != Some(has) {
            return Err(Error::Shape(format!(
                "the weights have {has} {of}: expected {} for a matrix of {rows} x {columns}",
                expected.map_or("fewer".into(), |n| n.to_string())
            )));
        }
        Ok(Matrix {
            weights,
            rows,
            columns,
        })
    }

    /// The weights.
    pub fn weights(&self) -> Weights<'a> {
        self.weights
    }

    /// The number of rows: of values that come out.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The number of columns: of values that go in.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// The bytes of memory that the weights take.
    pub fn n_bytes(&self) -> usize {
        match self.weights {
            Weights::F32(values) => size_of_val(values),
            Weights::Bf16(values) => size_of_val(values),
            Weights::Q8_0(bytes) | Weights::Q4_0(bytes) => bytes.len(),
        }
    }

    /// Whether the weights are blocks of small integers, which multiply integers.
    pub fn is_quantized(&self) -> bool {
        matches!(self.weights, Weights::Q8_0(_) | Weights::Q4_0(_))
    }
}

fn row_bytes(columns: usize, block_bytes: usize) -> Result<Option<usize>, Error> {
    if !columns.is_multiple_of(BLOCK) {
        return Err(Error::Shape(format!(
            "the matrix has {columns} columns: expected a multiple of {BLOCK}, because the weights \
             are in blocks of {BLOCK}"
        )));
    }
    Ok((columns / BLOCK).checked_mul(block_bytes))
}
