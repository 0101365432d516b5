//! The CPU's one question, for Python.

use pyo3::prelude::*;

/// Whether the CPU announces AMX, and whether its tiles have a geometry.
#[pyfunction]
pub fn amx_state() -> (bool, bool) {
    crate::util::cpu::amx_state()
}
