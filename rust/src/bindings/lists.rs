//! Conversions between Python lists and Rust vectors.
//!
//! pyo3 has its own conversions, but they panic when there is no memory, and they don't check for signals:
//! Ctrl-C would wait for the last of millions of elements.

use pyo3::exceptions::{PyTypeError, PyUnicodeEncodeError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList};

use super::text::Text;
use super::work::to_py_err;
use crate::util::memory::try_reserve;

/// The number of elements that are converted between two checks for signals.
const SIGNAL_INTERVAL: usize = 1 << 16;

/// Checks for signals regularly.
#[derive(Default)]
pub struct Signals {
    /// The number of elements converted since the last check.
    n: usize,
}

impl Signals {
    /// Count `n` more elements, and check for signals if it is time. Fails if a signal's handler raises an
    /// exception, as that of Ctrl-C does.
    pub fn count(&mut self, py: Python<'_>, n: usize) -> PyResult<()> {
        self.n += n;
        if self.n >= SIGNAL_INTERVAL {
            self.n = 0;
            py.check_signals()?;
        }
        Ok(())
    }
}

/// Extract `texts[index]`. An error names it; its cause is the UnicodeEncodeError of a lone surrogate.
pub fn read_text(text: &Bound<'_, PyAny>, index: usize) -> PyResult<Text> {
    let py = text.py();
    text.extract().map_err(|error: PyErr| {
        if error.is_instance_of::<PyUnicodeEncodeError>(py) {
            let named = PyValueError::new_err(format!("texts[{index}]"));
            named.set_cause(py, Some(error));
            return named;
        }
        let kind = match text.is_none() {
            true => "None".into(),
            false => text
                .get_type()
                .name()
                .map_or_else(|_| "?".into(), |name| format!("a {name}")),
        };
        PyTypeError::new_err(format!("texts[{index}] is {kind}: expected a str or bytes"))
    })
}

/// Extract the texts of a list.
pub fn read_texts(texts: &Bound<'_, PyAny>) -> PyResult<Vec<Text>> {
    let mut read = Vec::new();
    let mut signals = Signals::default();
    for text in texts.try_iter()? {
        try_reserve(&mut read, 1).map_err(to_py_err)?;
        read.push(read_text(&text?, read.len())?);
        signals.count(texts.py(), 1)?;
    }
    Ok(read)
}

/// Create a list of what `make` returns for each of `values`.
pub fn list_of<'py, T>(
    py: Python<'py>,
    values: impl IntoIterator<Item = T>,
    make: impl Fn(T, &mut Signals) -> PyResult<Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyList>> {
    let list = list_of_empty_slots(py, 0)?;
    let mut signals = Signals::default();
    for value in values {
        list.append(make(value, &mut signals)?)?;
        signals.count(py, 1)?;
    }
    Ok(list)
}

/// Create a list of int.
pub fn id_list<'py>(
    py: Python<'py>,
    ids: &[u32],
    signals: &mut Signals,
) -> PyResult<Bound<'py, PyList>> {
    let (first, rest) = ids.split_at(ids.len().min(SIGNAL_INTERVAL));
    let list = short_id_list(py, first)?;
    signals.count(py, first.len())?;
    // A signal handler can see every list, so none may have empty slots at that time.
    for some in rest.chunks(SIGNAL_INTERVAL) {
        let some_ids = short_id_list(py, some)?;
        list.set_slice(list.len(), list.len(), &some_ids)?;
        signals.count(py, some.len())?;
    }
    Ok(list)
}

fn short_id_list<'py>(py: Python<'py>, ids: &[u32]) -> PyResult<Bound<'py, PyList>> {
    let list = list_of_empty_slots(py, ids.len())?;
    for (i, &id) in (0..).zip(ids) {
        // SAFETY: PyLong_FromUnsignedLong returns a new reference, or null with an exception set. Slot i
        // of the list is empty, and PyList_SetItem takes over the reference.
        unsafe {
            let id = ffi::PyLong_FromUnsignedLong(id.into());
            let id = Bound::from_owned_ptr_or_err(py, id)?;
            ffi::PyList_SetItem(list.as_ptr(), i, id.into_ptr());
        }
    }
    Ok(list)
}

/// Create a list of `n` empty slots, which must be set before Python code can see the list.
fn list_of_empty_slots(py: Python<'_>, n: usize) -> PyResult<Bound<'_, PyList>> {
    // SAFETY: PyList_New returns a new reference to a list, or null with an exception set. The length of a
    // slice fits into isize.
    unsafe {
        let list = ffi::PyList_New(n as isize);
        Ok(Bound::from_owned_ptr_or_err(py, list)?.cast_into_unchecked())
    }
}

/// Create a Python bytes object. pyo3's own constructor panics when there is no memory.
pub fn py_bytes<'py>(py: Python<'py>, bytes: &[u8]) -> PyResult<Bound<'py, PyBytes>> {
    // SAFETY: the pointer and the length belong to one slice, which is copied. The function returns a new
    // reference to bytes, or null with an exception set.
    unsafe {
        let copy = ffi::PyBytes_FromStringAndSize(bytes.as_ptr().cast(), bytes.len() as isize);
        Ok(Bound::from_owned_ptr_or_err(py, copy)?.cast_into_unchecked())
    }
}
