//! Tokens and ids from Python dictionaries.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList, PyString};

use crate::encode::special::AddedToken;
use crate::vocab::{MAX_ID, Merge};

/// Read the ordinary tokens, a dict from bytes to int.
pub fn read_ranks(ranks: &Bound<'_, PyDict>) -> PyResult<Vec<(Box<[u8]>, u32)>> {
    ranks
        .iter()
        .map(|(token, id)| Ok((token_bytes(&token)?, token_id(&token, &id)?)))
        .collect()
}

/// Read the merges, a list of pairs of bytes.
pub fn read_merges(merges: &Bound<'_, PyList>) -> PyResult<Vec<Merge>> {
    merges
        .iter()
        .map(|pair| {
            let (left, right): (Bound<'_, PyBytes>, Bound<'_, PyBytes>) =
                pair.extract().map_err(|_| {
                    PyValueError::new_err(format!("merges has {pair}: expected a pair of bytes"))
                })?;
            Ok((left.as_bytes().into(), right.as_bytes().into()))
        })
        .collect()
}

/// Read the special tokens, a dict from str to int.
pub fn read_special_tokens(special_tokens: &Bound<'_, PyDict>) -> PyResult<Vec<(String, u32)>> {
    special_tokens
        .iter()
        .map(|(name, id)| Ok((token_name(&name)?, token_id(&name, &id)?)))
        .collect()
}

/// Read the added tokens, a list of (name, id, special, normalized, lstrip, rstrip, single_word).
pub fn read_added_tokens(added_tokens: &Bound<'_, PyList>) -> PyResult<Vec<AddedToken>> {
    let read = |token: Bound<'_, PyAny>| {
        let name = token_name(&token.get_item(0)?)?;
        let id = token_id(&token.get_item(0)?, &token.get_item(1)?)?;
        let [special, normalized, lstrip, rstrip, single_word] =
            [2, 3, 4, 5, 6].map(|at| token.get_item(at).and_then(|flag| flag.extract()));
        Ok(AddedToken {
            name,
            id,
            special: special?,
            normalized: normalized?,
            lstrip: lstrip?,
            rstrip: rstrip?,
            single_word: single_word?,
        })
    };
    added_tokens.iter().map(read).collect()
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
