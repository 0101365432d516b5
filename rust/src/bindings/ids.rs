//! Ids as NumPy arrays, and ids from Python.

use numpy::{Element, PyArray1, PyArrayMethods};
use pyo3::prelude::*;
use pyo3::types::PyList;

use super::lists::Signals;
use super::text::Text;
use super::work::to_py_err;
use crate::encode::{Sink, Tokenizer};
use crate::error::Error;
use crate::util::context::Context;
use crate::util::memory::{extend_large, large_vec, try_copy};
use crate::vocab::Vocab;

/// Ids of the smaller type that holds every id of the vocabulary.
pub enum Ids {
    U16(Vec<u16>),
    U32(Vec<u32>),
}

impl Ids {
    /// Encode `text`.
    pub fn encode(context: &Context, tokenizer: &Tokenizer, text: &Text) -> Result<Self, Error> {
        let mut ids = Ids::with_room(tokenizer, text.as_bytes().len())?;
        text.encode_to(context, tokenizer, &mut ids)?;
        ids.shrink();
        Ok(ids)
    }

    /// Make room for the ids of `n_bytes` of text.
    pub fn with_room(tokenizer: &Tokenizer, n_bytes: usize) -> Result<Self, Error> {
        // Few texts have more than one id for every two bytes.
        let room = n_bytes / 2;
        Ok(if tokenizer.vocab().fits_16_bits() {
            Ids::U16(large_vec(room)?)
        } else {
            Ids::U32(large_vec(room)?)
        })
    }

    /// Append an id of the vocabulary.
    pub fn push(&mut self, id: u32) -> Result<(), Error> {
        match self {
            Ids::U16(_) => self.narrow(&[id as u16]),
            Ids::U32(_) => self.wide(&[id]),
        }
    }

    pub fn len(&self) -> usize {
        match self {
            Ids::U16(ids) => ids.len(),
            Ids::U32(ids) => ids.len(),
        }
    }

    pub fn shrink(&mut self) {
        match self {
            Ids::U16(ids) => ids.shrink_to_fit(),
            Ids::U32(ids) => ids.shrink_to_fit(),
        }
    }

    pub fn into_numpy(self, py: Python<'_>) -> Bound<'_, PyAny> {
        match self {
            Ids::U16(ids) => PyArray1::from_vec(py, ids).into_any(),
            Ids::U32(ids) => PyArray1::from_vec(py, ids).into_any(),
        }
    }
}

impl Sink for Ids {
    fn narrow(&mut self, some: &[u16]) -> Result<(), Error> {
        match self {
            Ids::U16(ids) => extend_large(ids, some),
            Ids::U32(ids) => ids.narrow(some),
        }
    }

    fn wide(&mut self, some: &[u32]) -> Result<(), Error> {
        match self {
            Ids::U16(_) => unreachable!("a tokenizer emits ids of 16 bits as such"),
            Ids::U32(ids) => extend_large(ids, some),
        }
    }
}

/// Counts ids.
#[derive(Default)]
pub struct IdCount(pub usize);

impl Sink for IdCount {
    fn narrow(&mut self, some: &[u16]) -> Result<(), Error> {
        self.0 += some.len();
        Ok(())
    }

    fn wide(&mut self, some: &[u32]) -> Result<(), Error> {
        self.0 += some.len();
        Ok(())
    }
}

/// Ids from Python.
pub enum InputIds {
    U16(Vec<u16>),
    U32(Vec<u32>),
    I64(Vec<i64>),
}

impl InputIds {
    /// Copy a list of int or an array. `vocab` is for the message about what is not an id.
    pub fn read(ids: &Bound<'_, PyAny>, vocab: &Vocab) -> PyResult<Self> {
        let unknown = |position, id: &Bound<'_, PyAny>| {
            to_py_err(Error::UnknownId {
                id: id.to_string(),
                position,
                n_vocab: vocab.n_vocab(),
            })
        };
        if let Ok(list) = ids.cast::<PyList>() {
            let mut ids = large_vec(list.len()).map_err(to_py_err)?;
            let mut signals = Signals::default();
            for (position, id) in list.iter().enumerate() {
                signals.count(list.py(), 1)?;
                ids.push(id.extract().map_err(|_| unknown(position, &id))?);
            }
            return Ok(InputIds::I64(ids));
        }
        if let Ok(array) = ids.cast::<PyArray1<u16>>() {
            return Ok(InputIds::U16(copy_array(array)?));
        }
        if let Ok(array) = ids.cast::<PyArray1<u32>>() {
            return Ok(InputIds::U32(copy_array(array)?));
        }
        Ok(InputIds::I64(copy_array(ids.cast::<PyArray1<i64>>()?)?))
    }

    pub fn len(&self) -> usize {
        match self {
            InputIds::U16(ids) => ids.len(),
            InputIds::U32(ids) => ids.len(),
            InputIds::I64(ids) => ids.len(),
        }
    }
}

pub fn copy_array<T: Element + Copy>(array: &Bound<'_, PyArray1<T>>) -> PyResult<Vec<T>> {
    // SAFETY: no Rust code changes arrays, and Python code can't change this one before it is copied,
    // because the GIL is held.
    let values = unsafe { array.as_slice()? };
    try_copy(values).map_err(to_py_err)
}
