//! The class `BPE`, a byte-level BPE tokenizer.

use std::collections::HashSet;
use std::sync::Mutex;

use numpy::PyArray1;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{IntoPyDict, PyBytes, PyDict, PyList, PyString};

use super::ids::{IdCount, Ids, InputIds};
use super::lists::{Signals, id_list, list_of, py_bytes, read_texts};
use super::ranks::{read_ranks, read_special_tokens};
use super::text::Text;
use super::train::{count_pieces, train_with_progress};
use super::work::{interruptible, to_py_err};
use crate::encode::Tokenizer;
use crate::encode::special::SpecialFinder;
use crate::error::Error;
use crate::pretokenize::Pattern;
use crate::util::context::Context;
use crate::util::memory::try_reserve;
use crate::util::parallel::for_each;
use crate::vocab::Vocab;

/// A byte-level BPE vocabulary with the pattern that cuts text into pre-tokens.
#[pyclass(frozen, name = "BPE", module = "gptfast._rust")]
pub struct Bpe {
    tokenizer: Tokenizer,
    /// Finds all special and added tokens: most callers that allow any special token allow all.
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
        added_tokens: &Bound<'_, PyDict>,
    ) -> PyResult<Self> {
        let ranks = read_ranks(ranks)?;
        let special_tokens = read_special_tokens(special_tokens)?;
        let added_tokens = read_special_tokens(added_tokens)?;
        let context = Context::default();
        interruptible(py, &context, usize::MAX, || {
            let pattern = Pattern::new(pattern)?;
            let vocab = Vocab::new(&context, ranks, &special_tokens)?;
            Bpe::from_parts(vocab, pattern, &added_tokens)
        })
    }

    /// Learn a vocabulary of at most vocab_size tokens, special tokens included. No merge makes a token
    /// whose bytes are forbidden.
    #[staticmethod]
    #[allow(clippy::too_many_arguments)] // these are the arguments of the Python function
    fn train(
        py: Python<'_>,
        texts: &Bound<'_, PyAny>,
        vocab_size: usize,
        pattern: &str,
        special_tokens: Vec<String>,
        min_frequency: u64,
        forbidden: Vec<Vec<u8>>,
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
        let context = Context::new(n_threads);
        let pattern = Pattern::new(pattern).map_err(to_py_err)?;
        let counts = count_pieces(py, &context, texts, &pattern, memory_limit, &progress)?;
        let progress = progress.unbind();
        interruptible(py, &context, usize::MAX, || {
            let merges = train_with_progress(
                &context,
                counts,
                &alphabet,
                n_merges,
                min_frequency,
                &forbidden,
                progress,
            )?;
            let vocab = Vocab::from_merges(&context, &alphabet, &merges, &special_tokens)?;
            Bpe::from_parts(vocab, pattern, &[])
        })
    }

    /// The regular expression of a split pattern as Oniguruma reads it.
    #[staticmethod]
    fn pattern_to_oniguruma(pattern: &str) -> PyResult<String> {
        let pattern = Pattern::new(pattern).map_err(to_py_err)?;
        Ok(pattern.to_oniguruma())
    }

    /// The split pattern, by name or as a regular expression, that Oniguruma takes regex for.
    #[staticmethod]
    fn pattern_from_oniguruma(regex: &str) -> PyResult<String> {
        let pattern = Pattern::from_oniguruma(regex).map_err(to_py_err)?;
        Ok(pattern.as_str().to_owned())
    }

    /// Whether the matches of a split pattern are known to leave out no character of any text.
    #[staticmethod]
    fn pattern_matches_everything(pattern: &str) -> PyResult<bool> {
        let pattern = Pattern::new(pattern).map_err(to_py_err)?;
        Ok(pattern.matches_everything())
    }

    /// The pre-tokens of text. Their concatenation is text.
    fn pretokenize<'py>(&self, py: Python<'py>, text: &str) -> PyResult<Bound<'py, PyList>> {
        let context = Context::default();
        let pieces = interruptible(py, &context, self.work(text.len()), || {
            let mut pieces = Vec::new();
            self.tokenizer.split(text, |piece| {
                try_reserve(&mut pieces, 1)?;
                pieces.push(piece);
                context.check()
            })?;
            Ok(pieces)
        })?;
        // Creating the str takes longer than finding the pre-tokens.
        list_of(py, pieces, |piece, _| {
            Ok(PyString::from_bytes(py, piece.as_bytes())?.into_any())
        })
    }

    /// The last position in data where a text that contains data may be cut; 0 if there is none.
    fn safe_cut(&self, data: &[u8]) -> usize {
        self.tokenizer.safe_cut(data)
    }

    /// The ids of text. Special tokens in it are encoded as ordinary text.
    fn encode_ordinary<'py>(&self, py: Python<'py>, text: Text) -> PyResult<Bound<'py, PyList>> {
        let context = Context::default();
        let ids = interruptible(py, &context, self.work(text.as_bytes().len()), || {
            text.ids(&context, &self.tokenizer)
        })?;
        id_list(py, &ids, &mut Signals::default())
    }

    /// The ids of text, with the allowed special tokens in it as such. None allows all of them. Added
    /// tokens are found in any text.
    fn encode<'py>(
        &self,
        py: Python<'py>,
        text: &str,
        allowed: Option<HashSet<String>>,
    ) -> PyResult<Bound<'py, PyList>> {
        let context = Context::default();
        let ids = interruptible(py, &context, self.work(text.len()), || {
            let mut ids = Vec::new();
            let some = self.finder_of_some(allowed)?;
            let finder = some.as_ref().unwrap_or(&self.finder);
            finder.encode_to(&context, &self.tokenizer, text, &mut ids)?;
            Ok(ids)
        })?;
        id_list(py, &ids, &mut Signals::default())
    }

    /// Free the memory that calls have left behind for later calls.
    fn release_memory(&self, py: Python<'_>) {
        py.detach(|| self.tokenizer.release_memory());
    }

    /// The number of ids of text.
    fn count(&self, py: Python<'_>, text: Text) -> PyResult<usize> {
        let context = Context::default();
        interruptible(py, &context, self.work(text.as_bytes().len()), || {
            let mut count = IdCount::default();
            text.encode_to(&context, &self.tokenizer, &mut count)?;
            Ok(count.0)
        })
    }

    /// The ids of text as an array of the smaller dtype of uint16 and uint32 that holds every id.
    fn encode_to_numpy<'py>(&self, py: Python<'py>, text: Text) -> PyResult<Bound<'py, PyAny>> {
        let context = Context::default();
        let ids = interruptible(py, &context, self.work(text.as_bytes().len()), || {
            Ids::encode(&context, &self.tokenizer, &text)
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
        let all = self.encode_many(py, &texts, n_threads, |context, text| {
            text.ids(context, &self.tokenizer)
        })?;
        list_of(py, all, |ids, signals| {
            Ok(id_list(py, &ids, signals)?.into_any())
        })
    }

    /// encode of each text, on n_threads threads.
    fn encode_batch_special<'py>(
        &self,
        py: Python<'py>,
        texts: &Bound<'py, PyAny>,
        allowed: Option<HashSet<String>>,
        n_threads: usize,
    ) -> PyResult<Bound<'py, PyList>> {
        let texts = read_texts(texts)?;
        let some = self.finder_of_some(allowed).map_err(to_py_err)?;
        let finder = some.as_ref().unwrap_or(&self.finder);
        let all = self.encode_many(py, &texts, n_threads, |context, text| {
            let mut ids = Vec::new();
            finder.encode_to(context, &self.tokenizer, text.as_str()?, &mut ids)?;
            Ok(ids)
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
        let all = self.encode_many(py, &texts, n_threads, |context, text| {
            Ids::encode(context, &self.tokenizer, text)
        })?;
        list_of(py, all, |ids, _| Ok(ids.into_numpy(py)))
    }

    /// The concatenated bytes of ids, a list of int or an array.
    fn decode_bytes<'py>(
        &self,
        py: Python<'py>,
        ids: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let vocab = self.tokenizer.vocab();
        let ids = InputIds::read(ids, vocab)?;
        let context = Context::default();
        let bytes = interruptible(py, &context, 4 * ids.len(), || match &ids {
            InputIds::U16(ids) => vocab.decode_bytes(&context, ids.iter().map(|&id| id.into())),
            InputIds::U32(ids) => vocab.decode_bytes(&context, ids.iter().map(|&id| id.into())),
            InputIds::I64(ids) => vocab.decode_bytes(&context, ids.iter().copied()),
        })?;
        py_bytes(py, &bytes)
    }

    /// The number of bytes of each token, by id; 0 for an id without a token.
    fn token_lengths<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<u32>> {
        let vocab = self.tokenizer.vocab();
        let length = |id| vocab.token_bytes(id).map_or(0, |token| token.len() as u32);
        PyArray1::from_iter(py, (0..vocab.n_vocab()).map(length))
    }

    /// The id of an ordinary token; None if there is no such token.
    fn id_of(&self, token: &[u8]) -> Option<u32> {
        self.tokenizer.vocab().id_of(token)
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

    /// The ordinary tokens and their ids, sorted by id.
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

    /// The merges as pairs of tokens, in the order they are applied.
    #[getter]
    fn merges<'py>(&self, py: Python<'py>) -> Vec<(Bound<'py, PyBytes>, Bound<'py, PyBytes>)> {
        let pairs = self.tokenizer.vocab().merged_pairs().into_iter();
        pairs
            .map(|(left, right)| (PyBytes::new(py, left), PyBytes::new(py, right)))
            .collect()
    }
}

impl Bpe {
    fn from_parts(
        vocab: Vocab,
        pattern: Pattern,
        added_tokens: &[(String, u32)],
    ) -> Result<Self, Error> {
        let all = [vocab.special_tokens(), added_tokens].concat();
        let finder = SpecialFinder::new(&all)?;
        let tokenizer = Tokenizer::new(vocab, pattern).with_added_tokens(added_tokens)?;
        Ok(Bpe { tokenizer, finder })
    }

    /// Return what finds the allowed special tokens; None for all of them, which `finder` finds.
    fn finder_of_some(
        &self,
        allowed: Option<HashSet<String>>,
    ) -> Result<Option<SpecialFinder>, Error> {
        let Some(names) = allowed else {
            return Ok(None);
        };
        let vocab = self.tokenizer.vocab();
        let special = vocab.special_tokens().iter();
        let allowed = special.filter(|(name, _)| names.contains(name));
        let allowed: Vec<_> = allowed.chain(vocab.added_tokens()).cloned().collect();
        SpecialFinder::new(&allowed).map(Some)
    }

    /// The amount of work for a text of `n_bytes`, as [`interruptible`] takes it.
    fn work(&self, n_bytes: usize) -> usize {
        if self.tokenizer.pattern().is_linear() {
            n_bytes
        } else {
            usize::MAX
        }
    }

    /// Call `encode` for each text on `n_threads` threads, and return the results in order.
    fn encode_many<R: Send>(
        &self,
        py: Python<'_>,
        texts: &[Text],
        n_threads: usize,
        encode: impl Fn(&Context, &Text) -> Result<R, Error> + Sync,
    ) -> PyResult<Vec<R>> {
        let n_bytes = texts.iter().map(|text| text.as_bytes().len()).sum();
        let results: Vec<Mutex<Option<R>>> = texts.iter().map(|_| Mutex::new(None)).collect();
        let context = Context::new(n_threads);
        interruptible(py, &context, self.work(n_bytes), || {
            let mut threads = vec![(); n_threads];
            for_each(&context, &mut threads, texts.len(), |(), i| {
                let result = encode(&context, &texts[i]).map_err(|error| error.in_text(i))?;
                // Each result has its own lock, which only this thread ever takes.
                *results[i]
                    .lock()
                    .expect("no thread panics while it stores a result") = Some(result);
                Ok(())
            })?;
            let results = results
                .into_iter()
                .filter_map(|result| result.into_inner().ok().flatten());
            Ok(results.collect())
        })
    }
}
