//! Lists from Python and for Python.
//!
//! pyo3 converts them by itself, but panics where there is no memory, and looks for no signals: Ctrl-C
//! would wait for the last of millions of elements.

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList};

use super::text::Text;
use super::work::value_error;
use crate::util::memory::reserve;

/// So many elements are seen to between two looks for signals.
const BETWEEN_SIGNALS: usize = 1 << 16;

/// Looks for signals now and then.
#[derive(Default)]
pub struct Signals {
    n_seen: usize,
}

impl Signals {
    /// `n` more elements were seen to. Fails if a signal's handler does, as Ctrl-C's does.
    pub fn saw(&mut self, py: Python<'_>, n: usize) -> PyResult<()> {
        self.n_seen += n;
        if self.n_seen >= BETWEEN_SIGNALS {
            self.n_seen = 0;
            py.check_signals()?;
        }
        Ok(())
    }
}

/// The texts of a list.
pub fn read_texts(texts: &Bound<'_, PyAny>) -> PyResult<Vec<Text>> {
    let mut read = Vec::new();
    let mut signals = Signals::default();
    for text in texts.try_iter()? {
        reserve(&mut read, 1).map_err(value_error)?;
        read.push(text?.extract()?);
        signals.saw(texts.py(), 1)?;
    }
    Ok(read)
}

/// A list of what `make` makes of each of `values`.
pub fn list_of<'py, T>(
    py: Python<'py>,
    values: impl IntoIterator<Item = T>,
    make: impl Fn(T, &mut Signals) -> PyResult<Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyList>> {
    let list = list_with_holes(py, 0)?;
    let mut signals = Signals::default();
    for value in values {
        list.append(make(value, &mut signals)?)?;
        signals.saw(py, 1)?;
    }
    Ok(list)
}

/// A list of int.
pub fn id_list<'py>(
    py: Python<'py>,
    ids: &[u32],
    signals: &mut Signals,
) -> PyResult<Bound<'py, PyList>> {
    let (first, rest) = ids.split_at(ids.len().min(BETWEEN_SIGNALS));
    let list = short_id_list(py, first)?;
    signals.saw(py, first.len())?;
    // A handler may look at all lists that there are, so none may have holes then.
    for some in rest.chunks(BETWEEN_SIGNALS) {
        let some_ids = short_id_list(py, some)?;
        list.set_slice(list.len(), list.len(), &some_ids)?;
        signals.saw(py, some.len())?;
    }
    Ok(list)
}

fn short_id_list<'py>(py: Python<'py>, ids: &[u32]) -> PyResult<Bound<'py, PyList>> {
    let list = list_with_holes(py, ids.len())?;
    for (i, &id) in (0..).zip(ids) {
        // SAFETY: PyLong_FromUnsignedLong gives a new reference, or null and sets an exception; the
        // list has a hole at i, which takes the reference over.
        unsafe {
            let id = ffi::PyLong_FromUnsignedLong(id.into());
            let id = Bound::from_owned_ptr_or_err(py, id)?;
            ffi::PyList_SetItem(list.as_ptr(), i, id.into_ptr());
        }
    }
    Ok(list)
}

/// A list of `n` elements, which must be set before anyone else sees it.
fn list_with_holes(py: Python<'_>, n: usize) -> PyResult<Bound<'_, PyList>> {
    // SAFETY: PyList_New gives a new reference to a list, or null and sets an exception. No slice has
    // more elements than isize can count.
    unsafe {
        let list = ffi::PyList_New(n as isize);
        Ok(Bound::from_owned_ptr_or_err(py, list)?.cast_into_unchecked())
    }
}

/// The bytes as Python's, of which pyo3's own constructor would panic without memory.
pub fn py_bytes<'py>(py: Python<'py>, bytes: &[u8]) -> PyResult<Bound<'py, PyBytes>> {
    // SAFETY: the pointer and the length are of one slice, which is copied. What comes is a new
    // reference to bytes, or null, and an exception is set.
    unsafe {
        let copy = ffi::PyBytes_FromStringAndSize(bytes.as_ptr().cast(), bytes.len() as isize);
        Ok(Bound::from_owned_ptr_or_err(py, copy)?.cast_into_unchecked())
    }
}
