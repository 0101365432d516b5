//! Byte-level BPE in Rust, and with the feature `python` the extension module `gptfast._rust`.
//!
//! text -> [`pretokenize`] -> [`train`] makes a [`vocab`]; [`encode`] turns text into its ids;
//! [`vocab`] also turns ids back into bytes. [`cpu`] asks the processor one question.

#[cfg(feature = "python")]
mod bindings;
pub mod encode;
pub mod error;
pub mod pretokenize;
pub mod train;
mod util;
pub mod vocab;

/// The extension module `gptfast._rust`.
#[cfg(feature = "python")]
#[pyo3::pymodule]
mod _rust {
    #[pymodule_export]
    use crate::bindings::bpe::{Bpe, utf8_error};
    #[pymodule_export]
    use crate::bindings::cpu::amx_state;

    #[pymodule_init]
    fn init(module: &pyo3::Bound<'_, pyo3::types::PyModule>) -> pyo3::PyResult<()> {
        crate::bindings::bpe::prepare_numpy(module.py());
        Ok(())
    }
}
