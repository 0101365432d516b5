//! Text as Python gives it: `str`, or `bytes` that need not be UTF-8.
//!
//! It is borrowed. For a `str` with other characters than ASCII Python itself makes a copy in UTF-8, and
//! keeps that as long as the `str`.

use std::sync::atomic::AtomicBool;

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::pybacked::{PyBackedBytes, PyBackedStr};
use pyo3::types::{PyBytes, PyString};

use crate::encode::{Sink, Tokenizer};
use crate::error::Error;

/// A text that Python keeps while any thread reads it.
pub enum Text {
    Str(PyBackedStr),
    Bytes(PyBackedBytes),
}

impl Text {
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Text::Str(text) => text.as_bytes(),
            Text::Bytes(bytes) => bytes,
        }
    }

    pub fn encode_to(
        &self,
        tokenizer: &Tokenizer,
        stop: &AtomicBool,
        sink: &mut impl Sink,
    ) -> Result<(), Error> {
        match self {
            Text::Str(text) => tokenizer.encode_to(text, stop, sink),
            Text::Bytes(bytes) => tokenizer.encode_bytes_to(bytes, stop, sink),
        }
    }

    /// All ids.
    pub fn ids(&self, tokenizer: &Tokenizer, stop: &AtomicBool) -> Result<Vec<u32>, Error> {
        let mut ids = Vec::new();
        self.encode_to(tokenizer, stop, &mut ids)?;
        Ok(ids)
    }
}

impl<'py> FromPyObject<'_, 'py> for Text {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        if let Ok(text) = object.cast::<PyString>() {
            return Ok(Text::Str(text.to_owned().try_into()?));
        }
        match object.cast::<PyBytes>() {
            Ok(bytes) => Ok(Text::Bytes(bytes.to_owned().into())),
            Err(_) => Err(PyTypeError::new_err(format!(
                "the text is a {}: expected str or bytes",
                object.get_type()
            ))),
        }
    }
}
