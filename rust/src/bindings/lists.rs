//! Conversions between Python lists and Rust vectors.
//!
//! pyo3 has its own conversions, but they panic when there is no memory, and they don't check for signals:
//! Ctrl-C would wait for the last of millions of elements.

use std::sync::Mutex;

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
    mut make: impl FnMut(T, &mut Signals) -> PyResult<Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyList>> {
    let list = list_of_empty_slots(py, 0)?;
    let mut signals = Signals::default();
    let _paused = PausedGc::new(py);
    for value in values {
        list.append(make(value, &mut signals)?)?;
        signals.count(py, 1)?;
    }
    Ok(list)
}

/// Keeps Python from looking for garbage among lists while many of them are made, which would take a
/// fifth of the time.
struct PausedGc {
    was_enabled: bool,
}

impl PausedGc {
    fn new(_: Python<'_>) -> Self {
        // SAFETY: this thread is attached to Python, and the function only sets a flag.
        let was_enabled = unsafe { ffi::PyGC_Disable() } == 1;
        PausedGc { was_enabled }
    }
}

impl Drop for PausedGc {
    fn drop(&mut self) {
        if self.was_enabled {
            // SAFETY: as above. No caller detaches between the two calls.
            unsafe { ffi::PyGC_Enable() };
        }
    }
}

/// The int of each id, made when it is first needed.
///
/// Lists share these ints. So an id takes 8 bytes in each list instead of 36, and lists are created and
/// freed without allocating ints.
pub struct Ints {
    n_ids: usize,
    made: Mutex<Vec<Option<Py<PyAny>>>>,
}

impl Ints {
    /// Ints for the ids below `n_ids`.
    pub fn new(n_ids: usize) -> Self {
        let made = Mutex::default();
        Ints { n_ids, made }
    }

    /// Free the ints. Lists keep those that they have.
    pub fn release(&self) {
        drop(self.take());
    }

    /// Call `make_lists` with a place for the int of each id.
    ///
    /// It may run Python code, such as a signal handler. If that makes lists too, it begins without ints.
    pub fn lend<R>(&self, make_lists: impl FnOnce(&mut [Option<Py<PyAny>>]) -> R) -> R {
        let mut ints = self.take();
        ints.resize_with(self.n_ids, || None);
        let lists = make_lists(&mut ints);
        if let Ok(mut made) = self.made.try_lock() {
            *made = ints;
        }
        lists
    }

    fn take(&self) -> Vec<Option<Py<PyAny>>> {
        let made = self.made.try_lock();
        made.map_or_else(|_| Vec::new(), |mut made| std::mem::take(&mut *made))
    }
}

/// Create a list of int. `ints` has a place for the int of each id.
pub fn id_list<'py>(
    py: Python<'py>,
    ids: &[u32],
    ints: &mut [Option<Py<PyAny>>],
    signals: &mut Signals,
) -> PyResult<Bound<'py, PyList>> {
    let (first, rest) = ids.split_at(ids.len().min(SIGNAL_INTERVAL));
    let list = short_id_list(py, first, ints)?;
    signals.count(py, first.len())?;
    // A signal handler can see every list, so none may have empty slots at that time.
    for some in rest.chunks(SIGNAL_INTERVAL) {
        let some_ids = short_id_list(py, some, ints)?;
        list.set_slice(list.len(), list.len(), &some_ids)?;
        signals.count(py, some.len())?;
    }
    Ok(list)
}

fn short_id_list<'py>(
    py: Python<'py>,
    ids: &[u32],
    ints: &mut [Option<Py<PyAny>>],
) -> PyResult<Bound<'py, PyList>> {
    let list = list_of_empty_slots(py, ids.len())?;
    for (i, &id) in (0..).zip(ids) {
        let place = &mut ints[id as usize];
        let int = match place {
            Some(int) => int.clone_ref(py),
            None => place.insert(new_int(py, id)?).clone_ref(py),
        };
        // SAFETY: slot i of the list is empty, and PyList_SetItem takes over the reference.
        unsafe { ffi::PyList_SetItem(list.as_ptr(), i, int.into_ptr()) };
    }
    Ok(list)
}

#[cold]
fn new_int(py: Python<'_>, id: u32) -> PyResult<Py<PyAny>> {
    // SAFETY: PyLong_FromUnsignedLong returns a new reference, or null with an exception set.
    unsafe {
        let int = ffi::PyLong_FromUnsignedLong(id.into());
        Ok(Bound::from_owned_ptr_or_err(py, int)?.unbind())
    }
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
