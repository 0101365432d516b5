//! Texts from Python: `str`, or `bytes` that need not be UTF-8.
//!
//! Texts are borrowed, not copied. But for a `str` with characters beyond ASCII, Python itself makes a
//! copy in UTF-8 and keeps it as long as the `str`.

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::pybacked::{PyBackedBytes, PyBackedStr};
use pyo3::types::{PyBytes, PyString};

use crate::encode::{Sink, Tokenizer};
use crate::error::Error;
use crate::util::context::Context;

/// A text that Python keeps alive while any thread reads it.
pub enum Text {
    Str(PyBackedStr),
    Bytes(PyBackedBytes),
}

/// What is encoded, and how much of it there is.
pub trait HasBytes {
    fn n_bytes(&self) -> usize;
}

impl HasBytes for Text {
    fn n_bytes(&self) -> usize {
        self.as_bytes().len()
    }
}

impl Text {
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Text::Str(text) => text.as_bytes(),
            Text::Bytes(bytes) => bytes,
        }
    }

    /// The text as a str. Fails for bytes.
    pub fn as_str(&self) -> Result<&str, Error> {
        match self {
            Text::Str(text) => Ok(text),
            Text::Bytes(_) => Err(Error::Kind("is bytes: expected a str".into())),
        }
    }

    /// Pass the ids to `sink`.
    pub fn encode_to(
        &self,
        context: &Context,
        tokenizer: &Tokenizer,
        sink: &mut impl Sink,
    ) -> Result<(), Error> {
        match self {
            Text::Str(text) => tokenizer.encode_to(context, text, sink),
            Text::Bytes(bytes) => tokenizer.encode_bytes_to(context, bytes, sink),
        }
    }

    /// Return the ids.
    pub fn ids(&self, context: &Context, tokenizer: &Tokenizer) -> Result<Vec<u32>, Error> {
        let mut ids = Vec::new();
        self.encode_to(context, tokenizer, &mut ids)?;
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

/// The position of the first byte of data that is not valid UTF-8; None if all of data is.
#[pyfunction]
pub fn utf8_error(py: Python<'_>, data: &[u8]) -> Option<usize> {
    py.detach(|| {
        std::str::from_utf8(data)
            .err()
            .map(|error| error.valid_up_to())
    })
}
