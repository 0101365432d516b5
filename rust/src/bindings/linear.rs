//! Products of matrices and vectors in NumPy's arrays.

use numpy::npyffi::NPY_ARRAY_WRITEABLE;
use numpy::{Element, PyArray2, PyArrayMethods, PyUntypedArrayMethods};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use super::work::to_py_err;
use crate::error::{Error, catch_panics};
use crate::linear::{Activations, Matrix, Weights, multiply_parallel};

/// Products that read fewer bytes, each vector counted, don't release the GIL. They take microseconds.
const SHORT: usize = 128 << 10;

/// Multiply each vector of `x` (vectors, columns) by a matrix, into `out` (vectors, rows).
///
/// The GIL is released: Python must not change the arrays meanwhile, as with NumPy's own functions.
#[pyfunction]
pub fn multiply(
    py: Python<'_>,
    kind: &str,
    weights: &Bound<'_, PyAny>,
    x: &Bound<'_, PyArray2<f32>>,
    out: &Bound<'_, PyArray2<f32>>,
    n_threads: usize,
) -> PyResult<()> {
    let weights = match kind {
        "f32" => Weights::F32(values(weights.cast()?)?),
        "bf16" => Weights::Bf16(values(weights.cast()?)?),
        "q8_0" => Weights::Q8_0(values(weights.cast()?)?),
        "q4_0" => Weights::Q4_0(values(weights.cast()?)?),
        _ => {
            return Err(PyValueError::new_err(format!(
                "kind is '{kind}': expected 'f32', 'bf16', 'q8_0' or 'q4_0'"
            )));
        }
    };
    let ([n, columns], [n_out, rows]) = (shape(x), shape(out));
    if n != n_out {
        return Err(PyValueError::new_err(format!(
            "x has {n} vectors, and out has room for {n_out}"
        )));
    }
    if !out.is_c_contiguous() {
        return Err(PyValueError::new_err(CONTIGUOUS));
    }
    // SAFETY: a live array object has its flags.
    if unsafe { (*out.as_array_ptr()).fields.flags } & NPY_ARRAY_WRITEABLE == 0 {
        return Err(PyValueError::new_err("out is read-only"));
    }
    let matrix = Matrix::new(weights, rows, columns).map_err(to_py_err)?;
    let x = values(x)?;
    // SAFETY: the caller gives an array that nothing else uses meanwhile.
    let out = unsafe { out.as_slice_mut()? };
    let mut work = || {
        catch_panics(|| {
            if n == 0 || columns == 0 {
                out.fill(0.0);
                return Ok::<(), Error>(());
            }
            let mut activations = Activations::new(&matrix);
            activations.set(x);
            multiply_parallel(&matrix, &activations, out, n_threads)
        })
    };
    let done = if matrix.n_bytes().saturating_mul(n) < SHORT {
        work()
    } else {
        py.detach(work)
    };
    done.map_err(to_py_err)
}

const CONTIGUOUS: &str = "an array is not C-contiguous";

fn shape<T: Element>(array: &Bound<'_, PyArray2<T>>) -> [usize; 2] {
    [array.shape()[0], array.shape()[1]]
}

fn values<'a, T: Element>(array: &'a Bound<'_, PyArray2<T>>) -> PyResult<&'a [T]> {
    if !array.is_c_contiguous() {
        return Err(PyValueError::new_err(CONTIGUOUS));
    }
    // SAFETY: no Rust code changes arrays that it only reads, and the caller's Python code doesn't
    // either until the product is there.
    Ok(unsafe { array.as_slice()? })
}
