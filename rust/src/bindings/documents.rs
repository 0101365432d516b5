//! Documents: many texts in one `bytes` of Python, with arrays that say where each begins and ends.

use aho_corasick::AhoCorasick;
use numpy::PyArray1;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::PyBytes;

use super::ids::{Ids, copy_array};
use super::lists::{py_bytes, read_texts};
use super::text::{HasBytes, Text};
use super::work::{interruptible, to_py_err};
use crate::documents::field::Field;
use crate::documents::hashes::hashes_of;
use crate::documents::json_lines::read_lines;
use crate::documents::windows;
use crate::encode::Tokenizer;
use crate::error::{Error, catch_panics};
use crate::util::context::Context;

/// Texts, each a range of the same bytes.
pub struct Documents {
    data: PyBackedBytes,
    starts: Vec<i64>,
    ends: Vec<i64>,
}

impl FromPyObject<'_, '_> for Documents {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, '_, PyAny>) -> PyResult<Self> {
        type Arrays<'py> = (
            Bound<'py, PyBytes>,
            Bound<'py, PyArray1<i64>>,
            Bound<'py, PyArray1<i64>>,
        );
        let (data, starts, ends): Arrays<'_> = object.extract()?;
        let data = PyBackedBytes::from(data);
        let (starts, ends) = (copy_array(&starts)?, copy_array(&ends)?);
        let is_inside =
            |(&start, &end): (&i64, &i64)| 0 <= start && start <= end && end as usize <= data.len();
        if starts.len() != ends.len() || !starts.iter().zip(&ends).all(is_inside) {
            return Err(PyValueError::new_err(
                "the starts and ends of the documents are not in their data",
            ));
        }
        Ok(Documents { data, starts, ends })
    }
}

impl HasBytes for Documents {
    fn n_bytes(&self) -> usize {
        self.iter().map(<[u8]>::len).sum()
    }
}

impl Documents {
    fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let ranges = self.starts.iter().zip(&self.ends);
        ranges.map(|(&start, &end)| &self.data[start as usize..end as usize])
    }

    /// The ids of all texts, each followed by `separator` if there is one, and where each ends.
    pub fn encode(
        &self,
        context: &Context,
        tokenizer: &Tokenizer,
        separator: Option<u32>,
    ) -> Result<(Ids, Vec<i64>), Error> {
        let mut ids = Ids::with_room(tokenizer, self.n_bytes())?;
        let mut ends = Vec::with_capacity(self.ends.len());
        for text in self.iter() {
            tokenizer.encode_bytes_to(context, text, &mut ids)?;
            if let Some(separator) = separator {
                ids.push(separator)?;
            }
            ends.push(ids.len() as i64);
        }
        ids.shrink();
        Ok((ids, ends))
    }
}

type Texts<'py> = (
    Bound<'py, PyBytes>,
    Bound<'py, PyArray1<i64>>,
    Bound<'py, PyArray1<i64>>,
    Bound<'py, PyArray1<i64>>,
);

/// The texts of JSON lines in parts: data, starts, ends and numbers of lines; also the lines (number, start,
/// end) that another parser must judge, and the number of all lines.
#[pyfunction]
#[allow(clippy::type_complexity)] // this is the type of the Python function
pub fn json_texts<'py>(
    py: Python<'py>,
    lines: &[u8],
    field: &str,
    part_bytes: usize,
    longest: usize,
    n_threads: usize,
) -> PyResult<(Vec<Texts<'py>>, Vec<(i64, usize, usize)>, i64)> {
    let (context, field) = (Context::new(n_threads), Field::new(field));
    let work = || read_lines(&context, lines, &field, part_bytes, longest);
    let (parts, n_lines) = py.detach(|| catch_panics(work)).map_err(to_py_err)?;
    let (mut texts, mut others) = (Vec::new(), Vec::new());
    for part in parts {
        others.extend(part.others);
        if !part.numbers.is_empty() {
            texts.push((
                py_bytes(py, &part.data)?,
                PyArray1::from_vec(py, part.starts),
                PyArray1::from_vec(py, part.ends),
                PyArray1::from_vec(py, part.numbers),
            ));
        }
    }
    Ok((texts, others, n_lines))
}

/// Names that texts may have in them.
#[pyclass(frozen, module = "gptfast._rust")]
pub struct Names(AhoCorasick);

#[pymethods]
impl Names {
    #[new]
    fn new(names: Vec<PyBackedBytes>) -> PyResult<Self> {
        let names = names.iter().map(|name| &**name);
        let automaton = AhoCorasick::new(names);
        automaton
            .map(Names)
            .map_err(|error| PyValueError::new_err(error.to_string()))
    }

    /// Whether any of the names is in data.
    fn are_in(&self, py: Python<'_>, data: &[u8]) -> bool {
        py.detach(|| self.0.is_match(data))
    }
}

/// The hashes of the documents, BLAKE2b of 16 bytes, one after another.
#[pyfunction]
pub fn hash_documents<'py>(py: Python<'py>, documents: Documents) -> PyResult<Bound<'py, PyBytes>> {
    let work = || Ok(hashes_of(documents.iter()));
    py_bytes(py, &py.detach(|| catch_panics(work)).map_err(to_py_err)?)
}

/// How many windows of n_bytes bytes of the texts of val occur in those of train, and how many val has.
#[pyfunction]
pub fn shared_windows(
    py: Python<'_>,
    train: &Bound<'_, PyAny>,
    val: &Bound<'_, PyAny>,
    n_bytes: usize,
    n_threads: usize,
) -> PyResult<(usize, usize)> {
    if n_bytes == 0 {
        return Err(PyValueError::new_err(
            "a window has 0 bytes: expected 1 or more",
        ));
    }
    let (train, val) = (read_texts(train)?, read_texts(val)?);
    let [train, val] = [&train, &val].map(|texts| {
        let texts = texts.iter().map(Text::as_bytes);
        texts.collect::<Vec<_>>()
    });
    let n_text_bytes = train.iter().chain(&val).map(|text| text.len()).sum();
    let context = Context::new(n_threads);
    interruptible(py, &context, n_text_bytes, || {
        windows::shared_windows(&context, &train, &val, n_bytes)
    })
}
