//! The weights of a model, in the memory of others, by name.

use std::collections::HashMap;

use crate::error::Error;
use crate::linear::{Matrix, Weights, naive};
use crate::util::memory::move_to_huge_pages;

/// Where a tensor lies, and what it holds.
#[derive(Clone, Debug)]
pub struct Tensor {
    /// Address of the first byte.
    pub address: usize,
    /// "f32", "bf16", "q8_0" or "q4_0".
    pub kind: String,
    /// Number of rows; 1 for a vector. Three dimensions count as rows but for the last.
    pub rows: usize,
    /// Number of elements in a row.
    pub columns: usize,
}

/// Tensors that are taken by name until none is left.
pub struct Tensors(HashMap<String, Tensor>);

impl Tensors {
    /// # Safety
    /// Every tensor must lie at its address as long as what is taken from here is used, and nothing may
    /// write to it while it is read.
    pub unsafe fn new(tensors: HashMap<String, Tensor>) -> Self {
        Tensors(tensors)
    }

    /// Take a tensor of this shape, if there is one.
    ///
    /// # Errors
    /// Fails if the tensor has another shape or an unknown kind.
    pub fn maybe(
        &mut self,
        name: &str,
        rows: usize,
        columns: usize,
    ) -> Result<Option<Matrix<'static>>, Error> {
        let Some(tensor) = self.0.remove(name) else {
            return Ok(None);
        };
        let fail = |what: &str| Error::Shape(format!("the weight {name} is {what}"));
        if (tensor.rows, tensor.columns) != (rows, columns) {
            return Err(fail(&format!(
                "{} x {}: expected {rows} x {columns}",
                tensor.rows, tensor.columns
            )));
        }
        let n = rows * columns;
        // SAFETY: `new`'s caller promises that the tensor lies there, and that it lives long enough.
        let weights = unsafe {
            match tensor.kind.as_str() {
                "f32" => Weights::F32(slice(tensor.address, n)),
                "bf16" => Weights::Bf16(slice(tensor.address, n)),
                "q8_0" => Weights::Q8_0(slice(tensor.address, n / 32 * 34)),
                "q4_0" => Weights::Q4_0(slice(tensor.address, n / 32 * 18)),
                kind => return Err(fail(&format!("of the unknown kind {kind}"))),
            }
        };
        let matrix = Matrix::new(weights, rows, columns)?;
        // SAFETY: the tensor lies there.
        unsafe { move_to_huge_pages(tensor.address, matrix.n_bytes()) };
        Ok(Some(matrix))
    }

    /// Take a tensor of this shape.
    ///
    /// # Errors
    /// Fails if there is none, or if it has another shape or an unknown kind.
    pub fn take(
        &mut self,
        name: &str,
        rows: usize,
        columns: usize,
    ) -> Result<Matrix<'static>, Error> {
        self.maybe(name, rows, columns)?
            .ok_or_else(|| Error::Shape(format!("the weight {name} is missing")))
    }

    /// Take a linear layer, with its bias if it has one.
    ///
    /// # Errors
    /// Fails as `take` does.
    pub fn linear(&mut self, name: &str, rows: usize, columns: usize) -> Result<Linear, Error> {
        Ok(Linear {
            weight: self.take(&format!("{name}.weight"), rows, columns)?,
            bias: self.vector(&format!("{name}.bias"), rows)?,
        })
    }

    /// Take a vector, if there is one.
    ///
    /// # Errors
    /// Fails if it has another length, or is in blocks.
    pub fn vector(&mut self, name: &str, length: usize) -> Result<Option<Vector>, Error> {
        match self.maybe(name, 1, length)?.map(|matrix| matrix.weights()) {
            None => Ok(None),
            Some(Weights::F32(values)) => Ok(Some(Vector::F32(values))),
            Some(Weights::Bf16(values)) => Ok(Some(Vector::Bf16(values))),
            Some(_) => Err(Error::Shape(format!("the vector {name} is in blocks"))),
        }
    }

    /// Take a matrix in float32, if there is one.
    ///
    /// # Errors
    /// Fails if it has another shape or kind.
    pub fn floats(
        &mut self,
        name: &str,
        rows: usize,
        columns: usize,
    ) -> Result<Option<&'static [f32]>, Error> {
        match self
            .maybe(name, rows, columns)?
            .map(|matrix| matrix.weights())
        {
            None => Ok(None),
            Some(Weights::F32(values)) => Ok(Some(values)),
            Some(_) => Err(Error::Shape(format!("the table {name} is not float32"))),
        }
    }

    /// Check that every tensor was taken.
    ///
    /// # Errors
    /// Fails, and names one, if a tensor is left: the model has a part that isn't known here.
    pub fn finish(self) -> Result<(), Error> {
        match self.0.into_keys().min() {
            Some(name) => Err(Error::Shape(format!("the weight {name} is unknown"))),
            None => Ok(()),
        }
    }
}

/// # Safety
/// `n` values must lie at the address, as long as the slice is used.
unsafe fn slice<T>(address: usize, n: usize) -> &'static [T] {
    assert!(address != 0 && address.is_multiple_of(align_of::<T>()));
    // SAFETY: the caller promises it.
    unsafe { std::slice::from_raw_parts(address as *const T, n) }
}

/// A linear layer.
#[derive(Clone, Copy)]
pub struct Linear {
    /// The matrix (out, in).
    pub weight: Matrix<'static>,
    /// What is added to the product.
    pub bias: Option<Vector>,
}

/// A vector of weights.
#[derive(Clone, Copy)]
pub enum Vector {
    /// float32.
    F32(&'static [f32]),
    /// bfloat16.
    Bf16(&'static [u16]),
}

impl Vector {
    /// Call `work` with the elements.
    pub fn with<R>(&self, work: impl FnOnce(&[f32]) -> R) -> R {
        match self {
            Vector::F32(values) => work(values),
            Vector::Bf16(values) => {
                let widen = |&bits: &u16| f32::from_bits(u32::from(bits) << 16);
                work(&values.iter().map(widen).collect::<Vec<f32>>())
            }
        }
    }

    /// Add the elements from `start` on to `x`.
    pub fn add_to(&self, x: &mut [f32], start: usize) {
        match self {
            Vector::F32(values) => {
                for (x, value) in x.iter_mut().zip(&values[start..]) {
                    *x += value;
                }
            }
            Vector::Bf16(values) => {
                for (x, &bits) in x.iter_mut().zip(&values[start..]) {
                    *x += f32::from_bits(u32::from(bits) << 16);
                }
            }
        }
    }
}

/// Return the rows from `start` to `end` of a matrix, as a matrix.
pub fn rows_of(matrix: &Matrix<'static>, start: usize, end: usize) -> Matrix<'static> {
    fn cut<T>(values: &'static [T], n_rows: usize, start: usize, end: usize) -> &'static [T] {
        let width = values.len() / n_rows;
        &values[start * width..end * width]
    }
    let n = matrix.rows();
    let weights = match matrix.weights() {
        Weights::F32(values) => Weights::F32(cut(values, n, start, end)),
        Weights::Bf16(values) => Weights::Bf16(cut(values, n, start, end)),
        Weights::Q8_0(bytes) => Weights::Q8_0(cut(bytes, n, start, end)),
        Weights::Q4_0(bytes) => Weights::Q4_0(cut(bytes, n, start, end)),
    };
    Matrix::new(weights, end - start, matrix.columns()).expect("whole rows make a matrix")
}

/// Add one row of a table to `x`.
pub fn add_row(table: &Matrix<'static>, row: usize, x: &mut [f32]) {
    let values = naive::dequantize(&rows_of(table, row, row + 1));
    for (x, value) in x.iter_mut().zip(values) {
        *x += value;
    }
}
