//! Tokens and ids from Python dictionaries.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyString};

use crate::vocab::MAX_ID;

/// Read the ordinary tokens, a dict from bytes to int.
pub fn read_ranks(ranks: &Bound<'_, PyDict>) -> PyResult<Vec<(Box<[u8]>, u32)>> {
    ranks
        .iter()
        .map(|(token, id)| Ok((token_bytes(&token)?, token_id(&token, &id)?)))
        .collect()
}

/// Read the special tokens, a dict from str to int.
pub fn read_special_tokens(special_tokens: &Bound<'_, PyDict>) -> PyResult<Vec<(String, u32)>> {
    special_tokens
        .iter()
        .map(|(name, id)| Ok((token_name(&name)?, token_id(&name, &id)?)))
        .collect()
}

fn token_bytes(token: &Bound<'_, PyAny>) -> PyResult<Box<[u8]>> {
    match token.cast::<PyBytes>() {
        Ok(bytes) => Ok(bytes.as_bytes().into()),
        Err(_) => Err(PyValueError::new_err(format!(
            "ranks has the token {}: expected bytes",
            token.repr()?
        ))),
    }
}

fn token_name(name: &Bound<'_, PyAny>) -> PyResult<String> {
    match name.cast::<PyString>() {
        Ok(name) => name.extract(),
        Err(_) => Err(PyValueError::new_err(format!(
            "special_tokens has the name {}: expected a str",
            name.repr()?
        ))),
    }
}

fn token_id(token: &Bound<'_, PyAny>, id: &Bound<'_, PyAny>) -> PyResult<u32> {
    id.extract().map_err(|_| {
        PyValueError::new_err(format!(
            "the token {token} has the id {id}: expected an int from 0 to {MAX_ID}"
        ))
    })
}
