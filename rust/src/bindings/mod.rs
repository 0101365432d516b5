//! The Python module `gptfast._rust`. Its types are in `python/gptfast/_rust.pyi`.

pub mod bpe;
pub mod cpu;
pub mod decode;
pub mod documents;
mod ids;
pub mod linear;
mod lists;
mod ranks;
pub mod text;
mod train;
mod work;

use numpy::PyArray1;
use pyo3::Python;

/// Load NumPy's functions and types.
///
/// Otherwise the first array would load them, behind a lock: a process forked while another thread creates
/// that array would wait for the lock forever.
pub fn prepare_numpy(py: Python<'_>) {
    PyArray1::<u16>::zeros(py, 1, false);
    PyArray1::<u32>::zeros(py, 1, false);
    PyArray1::<i64>::zeros(py, 1, false);
}
