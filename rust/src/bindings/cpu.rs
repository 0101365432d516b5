//! What Python can ask about the CPU.

use pyo3::prelude::*;

/// Whether the CPU advertises AMX, and whether AMX can be used.
#[pyfunction]
pub fn amx_state() -> (bool, bool) {
    crate::util::cpu::amx_state()
}
