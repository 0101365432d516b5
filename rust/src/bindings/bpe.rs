//! The byte-level BPE tokenizer, for Python. `python/gptfast/_rust.pyi` has the types.

use numpy::{IntoPyArray, PyArray1};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{IntoPyDict, PyBytes, PyDict, PyList};

use crate::encode::{encode_bytes, encode_ordinary};
use crate::error::Error;
use crate::pretokenize::Pattern;
use crate::train::{count_pieces, train, PieceCounts};
use crate::vocab::{Vocab, MAX_ID};

/// A byte-level BPE vocabulary with the pattern that cuts text into pre-tokens.
#[pyclass(frozen, name = "BPE", module = "gptfast._rust")]
pub struct Bpe {
    vocab: Vocab,
    pattern: Pattern,
}

/// Texts are handed to the counting threads in batches of this many bytes.
const BATCH_BYTES: usize = 16 << 20;

#[pymethods]
impl Bpe {
    #[new]
    fn new(
        py: Python<'_>,
        ranks: &Bound<'_, PyDict>,
        pattern: &str,
        special_tokens: &Bound<'_, PyDict>,
    ) -> PyResult<Self> {
        let ranks = ranks
            .iter()
            .map(|(token, id)| Ok((token.extract::<Vec<u8>>()?.into(), token_id(&token, &id)?)))
            .collect::<PyResult<Vec<(Box<[u8]>, u32)>>>()?;
        let special_tokens = special_tokens
            .iter()
            .map(|(name, id)| Ok((name.extract()?, token_id(&name, &id)?)))
            .collect::<PyResult<Vec<(String, u32)>>>()?;
        py.detach(|| {
            let pattern = Pattern::new(pattern)?;
            let vocab = Vocab::new(ranks, &special_tokens)?;
            Ok(Bpe { vocab, pattern })
        })
        .map_err(value_error)
    }

    /// Learn a vocabulary of at most vocab_size tokens, special tokens included.
    #[staticmethod]
    #[pyo3(signature = (texts, vocab_size, pattern, special_tokens, min_frequency))]
    fn train(
        py: Python<'_>,
        texts: &Bound<'_, PyAny>,
        vocab_size: usize,
        pattern: &str,
        special_tokens: Vec<String>,
        min_frequency: u64,
    ) -> PyResult<Self> {
        let n_merges = vocab_size
            .checked_sub(256 + special_tokens.len())
            .ok_or_else(|| {
                PyValueError::new_err(format!(
                    "vocab_size {vocab_size} is too small: 256 bytes and {} special tokens need at \
                     least {}",
                    special_tokens.len(),
                    256 + special_tokens.len()
                ))
            })?;
        let pattern = Pattern::new(pattern).map_err(value_error)?;
        let counts = count_all(py, texts, &pattern)?;
        let mut signal = Ok(());
        let vocab = py.detach(|| {
            let keep_going = || {
                signal = Python::attach(|py| py.check_signals());
                signal.is_ok()
            };
            let merges = train(&counts, n_merges, min_frequency, keep_going)?;
            Vocab::from_merges(&merges, &special_tokens)
        });
        signal?;
        let vocab = vocab.map_err(value_error)?;
        Ok(Bpe { vocab, pattern })
    }

    /// The pre-tokens of text, which laid end to end are text.
    fn pretokenize<'t>(&self, py: Python<'_>, text: &'t str) -> PyResult<Vec<&'t str>> {
        py.detach(|| {
            let mut pieces = Vec::new();
            self.pattern.split(text, |piece| {
                pieces.push(piece);
                Ok(())
            })?;
            Ok(pieces)
        })
        .map_err(value_error)
    }

    /// The ids of text; special tokens in it are ordinary text.
    fn encode_ordinary(&self, py: Python<'_>, text: &str) -> PyResult<Vec<u32>> {
        py.detach(|| encode_ordinary(&self.vocab, &self.pattern, text))
            .map_err(value_error)
    }

    /// The same as an array of dtype uint32.
    fn encode_to_numpy<'py>(
        &self,
        py: Python<'py>,
        text: &str,
    ) -> PyResult<Bound<'py, PyArray1<u32>>> {
        let ids = self.encode_ordinary(py, text)?;
        Ok(ids.into_pyarray(py))
    }

    /// The ids of bytes that need not be UTF-8.
    fn encode_bytes(&self, py: Python<'_>, data: &[u8]) -> PyResult<Vec<u32>> {
        py.detach(|| encode_bytes(&self.vocab, &self.pattern, data))
            .map_err(value_error)
    }

    /// The bytes of each id, end to end.
    fn decode_bytes<'py>(
        &self,
        py: Python<'py>,
        ids: &Bound<'py, PyList>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let unknown = |position, id: &Bound<'py, PyAny>| Error::UnknownId {
            id: id.to_string(),
            position,
            n_vocab: self.vocab.n_vocab(),
        };
        let ids: Result<Vec<i64>, Error> = ids
            .iter()
            .enumerate()
            .map(|(position, id)| id.extract().map_err(|_| unknown(position, &id)))
            .collect();
        py.detach(|| self.vocab.decode_bytes(&ids?))
            .map(|bytes| PyBytes::new(py, &bytes))
            .map_err(value_error)
    }

    /// One more than the largest id.
    #[getter]
    fn n_vocab(&self) -> usize {
        self.vocab.n_vocab()
    }

    /// "gpt2", "none" or the regular expression.
    #[getter]
    fn pattern(&self) -> &str {
        self.pattern.as_str()
    }

    /// The ordinary tokens and their ids, by id.
    #[getter]
    fn ranks<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let ranks = self.vocab.ranks().into_iter();
        ranks
            .map(|(token, id)| (PyBytes::new(py, token), id))
            .into_py_dict(py)
    }

    /// The special tokens and their ids.
    #[getter]
    fn special_tokens<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let special_tokens = self.vocab.special_tokens().iter();
        special_tokens.map(|(name, id)| (name, id)).into_py_dict(py)
    }

    /// The pairs that were merged, first merge first.
    #[getter]
    fn merges<'py>(&self, py: Python<'py>) -> Vec<(Bound<'py, PyBytes>, Bound<'py, PyBytes>)> {
        let pairs = self.vocab.merged_pairs().into_iter();
        pairs
            .map(|(left, right)| (PyBytes::new(py, left), PyBytes::new(py, right)))
            .collect()
    }
}

/// Count the pre-tokens of an iterable of str, a batch of texts at a time.
fn count_all(py: Python<'_>, texts: &Bound<'_, PyAny>, pattern: &Pattern) -> PyResult<PieceCounts> {
    let mut counts = PieceCounts::default();
    let mut batch: Vec<String> = Vec::new();
    let mut batch_bytes = 0;
    for text in texts.try_iter()? {
        batch.push(text?.extract()?);
        batch_bytes += batch.last().map_or(0, String::len);
        if batch_bytes >= BATCH_BYTES {
            py.check_signals()?;
            py.detach(|| count_pieces(&mut counts, pattern, &batch))
                .map_err(value_error)?;
            batch.clear();
            batch_bytes = 0;
        }
    }
    py.detach(|| count_pieces(&mut counts, pattern, &batch))
        .map_err(value_error)?;
    Ok(counts)
}

fn token_id(token: &Bound<'_, PyAny>, id: &Bound<'_, PyAny>) -> PyResult<u32> {
    id.extract().map_err(|_| {
        PyValueError::new_err(format!(
            "the token {token} has the id {id}: expected an int from 0 to {MAX_ID}"
        ))
    })
}

fn value_error(error: Error) -> PyErr {
    PyValueError::new_err(error.to_string())
}
