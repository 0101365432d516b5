//! The byte-level BPE tokenizer, for Python. `python/gptfast/_rust.pyi` has the types.

use std::collections::HashSet;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;

use numpy::Element;
use numpy::PyArray1;
use numpy::PyArrayMethods;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{IntoPyDict, PyBytes, PyDict, PyList, PyString};

use super::lists::{Signals, id_list, list_of, py_bytes, read_texts};
use super::text::Text;
use super::work::{interruptible, value_error};
use crate::encode::special::SpecialFinder;
use crate::encode::{Sink, Tokenizer};
use crate::error::Error;
use crate::pretokenize::Pattern;
use crate::train::counter::Counter;
use crate::train::piece_counts::PieceCounts;
use crate::train::train;
use crate::util::interrupt::check;
use crate::util::memory::{copied, extend_large, large_vec, reserve};
use crate::util::parallel::for_each;
use crate::vocab::{MAX_ID, Vocab};

/// A byte-level BPE vocabulary with the pattern that cuts text into pre-tokens.
#[pyclass(frozen, name = "BPE", module = "gptfast._rust")]
pub struct Bpe {
    tokenizer: Tokenizer,
    /// For all special tokens, as most callers want who want any.
    finder: SpecialFinder,
}

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
            .map(|(token, id)| Ok((token_bytes(&token)?, token_id(&token, &id)?)))
            .collect::<PyResult<Vec<(Box<[u8]>, u32)>>>()?;
        let special_tokens = special_tokens
            .iter()
            .map(|(name, id)| Ok((token_name(&name)?, token_id(&name, &id)?)))
            .collect::<PyResult<Vec<(String, u32)>>>()?;
        interruptible(py, usize::MAX, |stop| {
            let pattern = Pattern::new(pattern)?;
            Bpe::of(Vocab::new(ranks, &special_tokens, stop)?, pattern)
        })
    }

    /// Learn a vocabulary of at most vocab_size tokens, special tokens included.
    #[staticmethod]
    #[allow(clippy::too_many_arguments)] // they are the public function's
    fn train(
        py: Python<'_>,
        texts: &Bound<'_, PyAny>,
        vocab_size: usize,
        pattern: &str,
        special_tokens: Vec<String>,
        min_frequency: u64,
        alphabet: &[u8],
        n_threads: usize,
        memory_limit: Option<u64>,
        progress: Bound<'_, PyAny>,
    ) -> PyResult<Self> {
        let alphabet = alphabet.try_into()?;
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
        let counts = count_all(py, texts, &pattern, n_threads, memory_limit, &progress)?;
        let progress = progress.unbind();
        interruptible(py, usize::MAX, |stop| {
            let mut failed = Ok(());
            let merges = train(
                counts,
                &alphabet,
                n_merges,
                min_frequency,
                n_threads,
                stop,
                |n_merged| {
                    let told =
                        Python::attach(|py| progress.call1(py, ("merging", n_merged, n_merges)));
                    failed = told.map(drop);
                    failed.is_ok()
                },
            );
            failed.map_err(|error| Error::Callback(error.to_string()))?;
            Bpe::of(
                Vocab::from_merges(&alphabet, &merges?, &special_tokens, stop)?,
                pattern,
            )
        })
    }

    /// The pre-tokens of text, which laid end to end are text.
    fn pretokenize<'py>(&self, py: Python<'py>, text: &str) -> PyResult<Bound<'py, PyList>> {
        let pieces = interruptible(py, self.work(text.len()), |stop| {
            let mut pieces = Vec::new();
            self.tokenizer.pattern().split(text, |piece| {
                reserve(&mut pieces, 1)?;
                pieces.push(piece);
                check(stop)
            })?;
            Ok(pieces)
        })?;
        // A str for each takes longer than finding them.
        list_of(py, pieces, |piece, _| {
            Ok(PyString::from_bytes(py, piece.as_bytes())?.into_any())
        })
    }

    /// The last place where a text of which data is a part may be cut; 0 if there is none.
    fn safe_cut(&self, data: &[u8]) -> usize {
        self.tokenizer.pattern().safe_cut(data)
    }

    /// The ids of text; special tokens in it are ordinary text.
    fn encode_ordinary<'py>(&self, py: Python<'py>, text: Text) -> PyResult<Bound<'py, PyList>> {
        let ids = interruptible(py, self.work(text.as_bytes().len()), |stop| {
            text.ids(&self.tokenizer, stop)
        })?;
        id_list(py, &ids, &mut Signals::default())
    }

    /// The ids of text, in which the special tokens named may occur. None: all of them.
    fn encode<'py>(
        &self,
        py: Python<'py>,
        text: &str,
        allowed: Option<HashSet<String>>,
    ) -> PyResult<Bound<'py, PyList>> {
        let ids = interruptible(py, self.work(text.len()), |stop| {
            let mut ids = Vec::new();
            let some = match allowed {
                None => None,
                Some(names) => {
                    let all = self.tokenizer.vocab().special_tokens().iter().cloned();
                    let allowed: Vec<_> = all.filter(|(name, _)| names.contains(name)).collect();
                    Some(SpecialFinder::new(&allowed)?)
                }
            };
            let finder = some.as_ref().unwrap_or(&self.finder);
            finder.encode_to(&self.tokenizer, text, stop, &mut ids)?;
            Ok(ids)
        })?;
        id_list(py, &ids, &mut Signals::default())
    }

    /// The number of ids of text.
    fn count(&self, py: Python<'_>, text: Text) -> PyResult<usize> {
        interruptible(py, self.work(text.as_bytes().len()), |stop| {
            let mut number = Count(0);
            text.encode_to(&self.tokenizer, stop, &mut number)?;
            Ok(number.0)
        })
    }

    /// The ids of text as an array of the smaller dtype of uint16 and uint32 that holds every id.
    fn encode_to_numpy<'py>(&self, py: Python<'py>, text: Text) -> PyResult<Bound<'py, PyAny>> {
        let ids = interruptible(py, self.work(text.as_bytes().len()), |stop| {
            Ids::of(&self.tokenizer, &text, stop)
        })?;
        Ok(ids.into_numpy(py))
    }

    /// encode_ordinary of each text, on n_threads threads.
    fn encode_batch<'py>(
        &self,
        py: Python<'py>,
        texts: &Bound<'py, PyAny>,
        n_threads: usize,
    ) -> PyResult<Bound<'py, PyList>> {
        let texts = read_texts(texts)?;
        let all = self.encode_many(py, &texts, n_threads, |text, stop| {
            text.ids(&self.tokenizer, stop)
        })?;
        list_of(py, all, |ids, signals| {
            Ok(id_list(py, &ids, signals)?.into_any())
        })
    }

    /// encode_to_numpy of each text, on n_threads threads.
    fn encode_blocks<'py>(
        &self,
        py: Python<'py>,
        texts: &Bound<'py, PyAny>,
        n_threads: usize,
    ) -> PyResult<Bound<'py, PyList>> {
        let texts = read_texts(texts)?;
        let all = self.encode_many(py, &texts, n_threads, |text, stop| {
            Ids::of(&self.tokenizer, text, stop)
        })?;
        list_of(py, all, |ids, _| Ok(ids.into_numpy(py)))
    }

    /// The bytes of each id, end to end. ids: a list of int, or an array.
    fn decode_bytes<'py>(
        &self,
        py: Python<'py>,
        ids: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let vocab = self.tokenizer.vocab();
        let ids = GivenIds::read(ids, vocab)?;
        let bytes = interruptible(py, 4 * ids.len(), |stop| match &ids {
            GivenIds::U16(ids) => vocab.decode_bytes(ids.iter().map(|&id| id.into()), stop),
            GivenIds::U32(ids) => vocab.decode_bytes(ids.iter().map(|&id| id.into()), stop),
            GivenIds::I64(ids) => vocab.decode_bytes(ids.iter().copied(), stop),
        })?;
        py_bytes(py, &bytes)
    }

    /// The number of bytes of each token by id, 0 where an id stands for none.
    fn token_lengths<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<u32>> {
        let vocab = self.tokenizer.vocab();
        let length = |id| vocab.token_bytes(id).map_or(0, |token| token.len() as u32);
        PyArray1::from_iter(py, (0..vocab.n_vocab()).map(length))
    }

    /// One more than the largest id.
    #[getter]
    fn n_vocab(&self) -> usize {
        self.tokenizer.vocab().n_vocab()
    }

    /// The name of the pattern, or the regular expression.
    #[getter]
    fn pattern(&self) -> &str {
        self.tokenizer.pattern().as_str()
    }

    /// The ordinary tokens and their ids, by id.
    #[getter]
    fn ranks<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let ranks = self.tokenizer.vocab().ranks().into_iter();
        ranks
            .map(|(token, id)| (PyBytes::new(py, token), id))
            .into_py_dict(py)
    }

    /// The special tokens and their ids.
    #[getter]
    fn special_tokens<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let special_tokens = self.tokenizer.vocab().special_tokens().iter();
        special_tokens.map(|(name, id)| (name, id)).into_py_dict(py)
    }

    /// The pairs that were merged, first merge first.
    #[getter]
    fn merges<'py>(&self, py: Python<'py>) -> Vec<(Bound<'py, PyBytes>, Bound<'py, PyBytes>)> {
        let pairs = self.tokenizer.vocab().merged_pairs().into_iter();
        pairs
            .map(|(left, right)| (PyBytes::new(py, left), PyBytes::new(py, right)))
            .collect()
    }
}

impl Bpe {
    fn of(vocab: Vocab, pattern: Pattern) -> Result<Self, Error> {
        let finder = SpecialFinder::new(vocab.special_tokens())?;
        let tokenizer = Tokenizer::new(vocab, pattern);
        Ok(Bpe { tokenizer, finder })
    }

    /// How much work a text of `n_bytes` is, for [`interruptible`].
    fn work(&self, n_bytes: usize) -> usize {
        if self.tokenizer.pattern().is_linear() {
            n_bytes
        } else {
            usize::MAX
        }
    }

    /// Do `encode` for each text, with the results in the order of the texts.
    fn encode_many<R: Send>(
        &self,
        py: Python<'_>,
        texts: &[Text],
        n_threads: usize,
        encode: impl Fn(&Text, &AtomicBool) -> Result<R, Error> + Sync,
    ) -> PyResult<Vec<R>> {
        let n_bytes = texts.iter().map(|text| text.as_bytes().len()).sum();
        let results: Vec<Mutex<Option<R>>> = texts.iter().map(|_| Mutex::new(None)).collect();
        interruptible(py, self.work(n_bytes), |stop| {
            for_each(&mut vec![(); n_threads], texts.len(), stop, |(), i| {
                let result = encode(&texts[i], stop)?;
                // Each place has a lock of its own, which only this thread ever takes.
                *results[i]
                    .lock()
                    .expect("no thread panics while it stores a result") = Some(result);
                Ok(())
            })?;
            let results = results
                .into_iter()
                .filter_map(|place| place.into_inner().ok().flatten());
            Ok(results.collect())
        })
    }
}

/// Ids in the smaller of the two types that holds every id of the vocabulary.
enum Ids {
    U16(Vec<u16>),
    U32(Vec<u32>),
}

impl Ids {
    fn of(tokenizer: &Tokenizer, text: &Text, stop: &AtomicBool) -> Result<Self, Error> {
        // Few texts have more than one id for two bytes.
        let room = text.as_bytes().len() / 2;
        let mut ids = if tokenizer.vocab().fits_16_bits() {
            Ids::U16(large_vec(room)?)
        } else {
            Ids::U32(large_vec(room)?)
        };
        text.encode_to(tokenizer, stop, &mut ids)?;
        match &mut ids {
            Ids::U16(ids) => ids.shrink_to_fit(),
            Ids::U32(ids) => ids.shrink_to_fit(),
        }
        Ok(ids)
    }

    fn into_numpy(self, py: Python<'_>) -> Bound<'_, PyAny> {
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
            Ids::U16(_) => unreachable!("ids of 16 bits are handed on as such"),
            Ids::U32(ids) => extend_large(ids, some),
        }
    }
}

/// How many ids there were.
struct Count(usize);

impl Sink for Count {
    fn narrow(&mut self, some: &[u16]) -> Result<(), Error> {
        self.0 += some.len();
        Ok(())
    }

    fn wide(&mut self, some: &[u32]) -> Result<(), Error> {
        self.0 += some.len();
        Ok(())
    }
}

/// Ids that Python gave.
enum GivenIds {
    U16(Vec<u16>),
    U32(Vec<u32>),
    I64(Vec<i64>),
}

impl GivenIds {
    fn read(ids: &Bound<'_, PyAny>, vocab: &Vocab) -> PyResult<Self> {
        let unknown = |position, id: &Bound<'_, PyAny>| {
            value_error(Error::UnknownId {
                id: id.to_string(),
                position,
                n_vocab: vocab.n_vocab(),
            })
        };
        if let Ok(list) = ids.cast::<PyList>() {
            let mut ids = large_vec(list.len()).map_err(value_error)?;
            let mut signals = Signals::default();
            for (position, id) in list.iter().enumerate() {
                signals.saw(list.py(), 1)?;
                ids.push(id.extract().map_err(|_| unknown(position, &id))?);
            }
            return Ok(GivenIds::I64(ids));
        }
        if let Ok(array) = ids.cast::<PyArray1<u16>>() {
            return Ok(GivenIds::U16(copy_of(array)?));
        }
        if let Ok(array) = ids.cast::<PyArray1<u32>>() {
            return Ok(GivenIds::U32(copy_of(array)?));
        }
        Ok(GivenIds::I64(copy_of(ids.cast::<PyArray1<i64>>()?)?))
    }

    fn len(&self) -> usize {
        match self {
            GivenIds::U16(ids) => ids.len(),
            GivenIds::U32(ids) => ids.len(),
            GivenIds::I64(ids) => ids.len(),
        }
    }
}

fn copy_of<T: Element + Copy>(array: &Bound<'_, PyArray1<T>>) -> PyResult<Vec<T>> {
    // SAFETY: Python code can't change the array before the copy is made, as the GIL is held, and no Rust
    // code changes arrays.
    let values = unsafe { array.as_slice()? };
    copied(values).map_err(value_error)
}

/// Count the pre-tokens of an iterable of str or bytes, a batch of texts at a time.
fn count_all(
    py: Python<'_>,
    texts: &Bound<'_, PyAny>,
    pattern: &Pattern,
    n_threads: usize,
    memory_limit: Option<u64>,
    progress: &Bound<'_, PyAny>,
) -> PyResult<PieceCounts> {
    let mut counter = Counter::new(n_threads, memory_limit);
    let mut texts = texts.try_iter()?;
    let mut n_bytes = 0;
    loop {
        let mut batch: Vec<Text> = Vec::new();
        let mut batch_bytes = 0;
        for text in texts.by_ref() {
            batch.push(text?.extract()?);
            batch_bytes += batch.last().map_or(0, |text| text.as_bytes().len());
            if batch_bytes >= counter.batch_bytes() {
                break;
            }
        }
        if batch.is_empty() {
            break;
        }
        interruptible(py, usize::MAX, |stop| {
            let batch: Vec<&[u8]> = batch.iter().map(Text::as_bytes).collect();
            counter.add(pattern, &batch, stop)
        })?;
        n_bytes += batch_bytes;
        progress.call1(("counting", n_bytes, 0))?;
    }
    let (counts, left_out) = interruptible(py, usize::MAX, |stop| counter.finish(stop))?;
    if left_out.pieces > 0 {
        progress.call1(("left out", left_out.pieces, left_out.at_most))?;
    }
    Ok(counts)
}

/// Make NumPy's functions and types known to this module.
///
/// Otherwise the first array would do it, behind a lock: a process that is forked while another thread
/// makes that array would wait for it for ever.
pub fn prepare_numpy(py: Python<'_>) {
    PyArray1::<u16>::zeros(py, 1, false);
    PyArray1::<u32>::zeros(py, 1, false);
    PyArray1::<i64>::zeros(py, 1, false);
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

/// The position of the first byte of data that is not UTF-8; None if all of it is.
#[pyfunction]
pub fn utf8_error(py: Python<'_>, data: &[u8]) -> Option<usize> {
    py.detach(|| {
        std::str::from_utf8(data)
            .err()
            .map(|error| error.valid_up_to())
    })
}
