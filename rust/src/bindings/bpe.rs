//! The class `BPE`, a byte-level BPE tokenizer.

use std::collections::HashSet;
use std::iter::once;
use std::sync::Mutex;

use numpy::PyArray1;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{IntoPyDict, PyBytes, PyDict, PyList, PyString};

use super::documents::Documents;
use super::ids::{IdCount, Ids, InputIds};
use super::lists::{Ints, Signals, id_list, list_of, py_bytes, read_texts};
use super::ranks::{read_added_tokens, read_merges, read_ranks, read_special_tokens};
use super::text::{HasBytes, Text};
use super::train::{count_pieces, with_progress};
use super::work::{interruptible, to_py_err};
use crate::encode::Tokenizer;
use crate::encode::special::{AddedToken, TokenFinder};
use crate::error::Error;
use crate::normalize::Normalizer;
use crate::pretokenize::Pattern;
use crate::train::{Limits, extend, train};
use crate::util::context::Context;
use crate::util::memory::try_reserve;
use crate::util::parallel::for_each;
use crate::vocab::{Model, Vocab};

/// A byte-level BPE vocabulary with the pattern that cuts text into pre-tokens.
#[pyclass(frozen, name = "BPE", module = "gptfast._rust")]
pub struct Bpe {
    tokenizer: Tokenizer,
    /// Finds all special and added tokens: most callers that allow any special token allow all.
    finder: Option<TokenFinder>,
    ints: Ints,
}

#[pymethods]
impl Bpe {
    #[new]
    #[pyo3(signature = (ranks, pattern, special_tokens, added_tokens, *, merges=None,
        ignore_merges=false, unk=None, fuse_unk=false, byte_fallback=false, normalizer=None))]
    #[allow(clippy::too_many_arguments)] // these are the arguments of the Python class
    fn new(
        py: Python<'_>,
        ranks: &Bound<'_, PyDict>,
        pattern: &str,
        special_tokens: &Bound<'_, PyDict>,
        added_tokens: &Bound<'_, PyList>,
        merges: Option<&Bound<'_, PyList>>,
        ignore_merges: bool,
        unk: Option<u32>,
        fuse_unk: bool,
        byte_fallback: bool,
        normalizer: Option<&str>,
    ) -> PyResult<Self> {
        let ranks = read_ranks(ranks)?;
        let model = Model {
            merges: merges.map(read_merges).transpose()?,
            ignore_merges,
            unk,
            fuse_unk,
            byte_fallback,
        };
        let special_tokens = read_special_tokens(special_tokens)?;
        let added_tokens = read_added_tokens(added_tokens)?;
        let context = Context::default();
        interruptible(py, &context, usize::MAX, || {
            let pattern = Pattern::new(pattern)?;
            let normalizer = normalizer.map(Normalizer::from_json).transpose()?;
            let vocab = Vocab::with_model(&context, ranks, &special_tokens, &model)?;
            Bpe::from_parts(vocab, pattern, normalizer, added_tokens)
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
        max_token_length: Option<usize>,
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
            let limits = Limits {
                n_merges,
                min_frequency,
                forbidden: &forbidden,
                max_token_length,
            };
            let merges = with_progress(n_merges, progress, |call| {
                train(&context, counts, &alphabet, limits, call)
            })?;
            let vocab = Vocab::from_merges(&context, &alphabet, &merges, &special_tokens)?;
            Bpe::from_parts(vocab, pattern, None, Vec::new())
        })
    }

    /// Whether a split pattern cuts any text in time in proportion to its length.
    #[staticmethod]
    fn pattern_is_linear(pattern: &str) -> PyResult<bool> {
        Ok(Pattern::new(pattern).map_err(to_py_err)?.is_linear())
    }

    /// Learn further merges, at most n_merges, and return them as pairs of ids: the first one makes the id
    /// n_vocab.
    #[allow(clippy::too_many_arguments)] // these are the arguments of the Python function
    fn further_merges(
        &self,
        py: Python<'_>,
        texts: &Bound<'_, PyAny>,
        n_merges: usize,
        min_frequency: u64,
        forbidden: Vec<Vec<u8>>,
        max_token_length: Option<usize>,
        n_threads: usize,
        memory_limit: Option<u64>,
        progress: Bound<'_, PyAny>,
    ) -> PyResult<Vec<(u32, u32)>> {
        let context = Context::new(n_threads);
        let pattern = self.tokenizer.pattern();
        let counts = count_pieces(py, &context, texts, pattern, memory_limit, &progress)?;
        let progress = progress.unbind();
        interruptible(py, &context, usize::MAX, || {
            let limits = Limits {
                n_merges,
                min_frequency,
                forbidden: &forbidden,
                max_token_length,
            };
            with_progress(n_merges, progress, |call| {
                extend(&context, counts, self.tokenizer.vocab(), limits, call)
            })
        })
    }

    /// The regular expression of a split pattern as Oniguruma reads it.
    #[staticmethod]
    fn pattern_to_oniguruma(pattern: &str) -> PyResult<String> {
        let pattern = Pattern::new(pattern).map_err(to_py_err)?;
        pattern.to_oniguruma().map_err(to_py_err)
    }

    /// A split pattern by its name, if there is one that cuts alike.
    #[staticmethod]
    fn canonical_pattern(pattern: &str) -> PyResult<String> {
        let pattern = Pattern::new(pattern).map_err(to_py_err)?;
        Ok(pattern.as_str().to_owned())
    }

    /// Whether the matches of a split pattern are known to leave out no character of any text.
    #[staticmethod]
    fn pattern_matches_everything(pattern: &str) -> PyResult<bool> {
        let pattern = Pattern::new(pattern).map_err(to_py_err)?;
        Ok(pattern.matches_everything())
    }

    /// The pre-tokens of text. Their concatenation is text, as far as nothing changes it.
    fn pretokenize<'py>(&self, py: Python<'py>, text: &str) -> PyResult<Bound<'py, PyList>> {
        let context = Context::default();
        let pieces = interruptible(py, &context, self.work(text.len()), || {
            let (mut pieces, mut ends) = (Vec::new(), Vec::new());
            self.tokenizer.split(text, |piece| {
                try_reserve(&mut pieces, piece.len())?;
                pieces.extend_from_slice(piece.as_bytes());
                try_reserve(&mut ends, 1)?;
                ends.push(pieces.len());
                context.check()
            })?;
            Ok((pieces, ends))
        })?;
        let (pieces, ends) = pieces;
        let starts = once(0).chain(ends.iter().copied());
        // Creating the str takes longer than finding the pre-tokens.
        list_of(py, starts.zip(&ends), |(start, &end), _| {
            Ok(PyString::from_bytes(py, &pieces[start..end])?.into_any())
        })
    }

    /// The last position in data where a text that contains data may be cut; 0 if there is none.
    fn safe_cut(&self, data: &[u8]) -> usize {
        self.tokenizer.safe_cut(data)
    }

    /// What the tokens of text stand for, joined, and for each of its bytes the start and the end in bytes of
    /// what it comes from.
    #[allow(clippy::type_complexity)] // it is the type of the Python method
    fn align<'py>(
        &self,
        py: Python<'py>,
        text: &str,
    ) -> PyResult<(
        Bound<'py, PyBytes>,
        Bound<'py, PyArray1<u64>>,
        Bound<'py, PyArray1<u64>>,
    )> {
        let context = Context::default();
        let (bytes, spans) = interruptible(py, &context, self.work(text.len()), || {
            self.tokenizer.align(text)
        })?;
        let starts = PyArray1::from_iter(py, spans.iter().map(|&(start, _)| start as u64));
        let ends = PyArray1::from_iter(py, spans.iter().map(|&(_, end)| end as u64));
        Ok((py_bytes(py, &bytes)?, starts, ends))
    }

    /// Whether the tokens of a text, joined, are the text.
    #[getter]
    fn keeps_text(&self) -> bool {
        self.tokenizer.keeps_text()
    }

    /// The ids of text. Special tokens in it are encoded as ordinary text.
    fn encode_ordinary<'py>(&self, py: Python<'py>, text: Text) -> PyResult<Bound<'py, PyList>> {
        let context = Context::default();
        let ids = interruptible(py, &context, self.work(text.as_bytes().len()), || {
            text.ids(&context, &self.tokenizer)
        })?;
        self.ints
            .lend(|ints| id_list(py, &ids, ints, &mut Signals::default()))
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
            let finder = some.as_ref().unwrap_or(&self.finder).as_ref();
            self.tokenizer
                .encode_with(finder, &context, text, &mut ids)?;
            Ok(ids)
        })?;
        self.ints
            .lend(|ints| id_list(py, &ids, ints, &mut Signals::default()))
    }

    /// Free the memory that calls have left behind for later calls.
    fn release_memory(&self, py: Python<'_>) {
        self.ints.release();
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
        self.id_lists(py, all)
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
        let finder = some.as_ref().unwrap_or(&self.finder).as_ref();
        let all = self.encode_many(py, &texts, n_threads, |context, text| {
            let mut ids = Vec::new();
            self.tokenizer
                .encode_with(finder, context, text.as_str()?, &mut ids)?;
            Ok(ids)
        })?;
        self.id_lists(py, all)
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

    /// Of each of many documents: the ids of its texts, each followed by the separator if there is one, as
    /// one array, and where each text ends there.
    fn encode_documents<'py>(
        &self,
        py: Python<'py>,
        documents: Vec<Documents>,
        separator: Option<u32>,
        n_threads: usize,
    ) -> PyResult<Bound<'py, PyList>> {
        let all = self.encode_many(py, &documents, n_threads, |context, some| {
            some.encode(context, &self.tokenizer, separator)
        })?;
        list_of(py, all, |(ids, ends), _| {
            let ends = PyArray1::from_vec(py, ends);
            Ok((ids.into_numpy(py), ends).into_pyobject(py)?.into_any())
        })
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
            .map(|(token, id)| (PyBytes::new(py, &token), id))
            .into_py_dict(py)
    }

    /// The special tokens and their ids.
    #[getter]
    fn special_tokens<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let special_tokens = self.tokenizer.vocab().special_tokens().iter();
        special_tokens.map(|(name, id)| (name, id)).into_py_dict(py)
    }

    /// Whether tiktoken encodes any text alike, with the ids of the ordinary tokens as ranks.
    #[getter]
    fn follows_ids(&self) -> bool {
        self.tokenizer.vocab().follows_ids()
    }

    /// Whether a whole pre-token has to be looked up before it is merged, because no merges make it.
    #[getter]
    fn looks_up_whole(&self) -> bool {
        self.tokenizer.vocab().looks_up_whole()
    }

    /// Whether a merge makes only merges of higher rank possible.
    #[getter]
    fn merges_ascend(&self) -> bool {
        self.tokenizer.vocab().merges_ascend()
    }

    /// The merges that can be applied, as pairs of tokens, in the order of their ranks.
    #[getter]
    fn merges<'py>(&self, py: Python<'py>) -> Vec<(Bound<'py, PyBytes>, Bound<'py, PyBytes>)> {
        let pairs = self.tokenizer.vocab().merged_pairs().into_iter();
        pairs
            .map(|(left, right)| (PyBytes::new(py, left), PyBytes::new(py, right)))
            .collect()
    }
}

impl Bpe {
    /// `added_tokens` has the special tokens, too; those that it lacks have no flags.
    fn from_parts(
        vocab: Vocab,
        pattern: Pattern,
        normalizer: Option<Normalizer>,
        mut added_tokens: Vec<AddedToken>,
    ) -> Result<Self, Error> {
        let names: HashSet<_> = added_tokens
            .iter()
            .map(|token| token.name.clone())
            .collect();
        let special = vocab
            .special_tokens()
            .iter()
            .filter(|(name, _)| !names.contains(name));
        added_tokens.extend(special.map(|(name, id)| AddedToken::special(name.clone(), *id)));
        let mut tokenizer = Tokenizer::new(vocab, pattern);
        if let Some(normalizer) = normalizer {
            tokenizer = tokenizer.with_normalizer(normalizer)?;
        }
        let tokenizer = tokenizer.with_added_tokens(&added_tokens)?;
        let finder = tokenizer.finder_of(|_| true)?;
        let ints = Ints::new(tokenizer.vocab().n_vocab());
        Ok(Bpe {
            tokenizer,
            finder,
            ints,
        })
    }

    /// Create a list of lists of int.
    fn id_lists<'py>(&self, py: Python<'py>, all: Vec<Vec<u32>>) -> PyResult<Bound<'py, PyList>> {
        self.ints.lend(|ints| {
            list_of(py, all, |ids, signals| {
                Ok(id_list(py, &ids, ints, signals)?.into_any())
            })
        })
    }

    /// Return what finds the allowed special tokens; None for all of them, which `finder` finds.
    fn finder_of_some(
        &self,
        allowed: Option<HashSet<String>>,
    ) -> Result<Option<Option<TokenFinder>>, Error> {
        let find = |names: HashSet<String>| self.tokenizer.finder_of(|name| names.contains(name));
        allowed.map(find).transpose()
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
    fn encode_many<T: HasBytes + Sync, R: Send>(
        &self,
        py: Python<'_>,
        texts: &[T],
        n_threads: usize,
        encode: impl Fn(&Context, &T) -> Result<R, Error> + Sync,
    ) -> PyResult<Vec<R>> {
        let n_bytes = texts.iter().map(HasBytes::n_bytes).sum();
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
