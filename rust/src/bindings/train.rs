//! Training on a Python iterable of texts, with a Python callback for progress.

use pyo3::prelude::*;

use super::lists::read_text;
use super::text::Text;
use super::work::interruptible;
use crate::error::Error;
use crate::pretokenize::Pattern;
use crate::train::counter::Counter;
use crate::train::piece_counts::PieceCounts;
use crate::util::context::Context;
use crate::vocab::Pair;

/// Count the pre-tokens of an iterable of str or bytes, a batch of texts at a time.
pub fn count_pieces(
    py: Python<'_>,
    context: &Context,
    texts: &Bound<'_, PyAny>,
    pattern: &Pattern,
    memory_limit: Option<u64>,
    progress: &Bound<'_, PyAny>,
) -> PyResult<PieceCounts> {
    let mut counter = Counter::new(context, pattern, memory_limit);
    let mut texts = texts.try_iter()?;
    let (mut n_bytes, mut n_texts) = (0, 0);
    loop {
        let mut batch: Vec<Text> = Vec::new();
        let mut batch_bytes = 0;
        for text in texts.by_ref() {
            batch.push(read_text(&text?, n_texts)?);
            n_texts += 1;
            batch_bytes += batch.last().map_or(0, |text| text.as_bytes().len());
            if batch_bytes >= counter.batch_bytes() {
                break;
            }
        }
        if batch.is_empty() {
            break;
        }
        interruptible(py, context, usize::MAX, || {
            let batch: Vec<&[u8]> = batch.iter().map(Text::as_bytes).collect();
            counter.add(&batch)
        })?;
        n_bytes += batch_bytes;
        progress.call1(("counting", n_bytes, 0))?;
    }
    let (counts, pruned) = interruptible(py, context, usize::MAX, || counter.finish())?;
    if pruned.pieces > 0 {
        progress.call1(("left out", pruned.pieces, pruned.max_count))?;
    }
    Ok(counts)
}

/// Call `train` with a progress callback that calls Python.
pub fn with_progress(
    n_merges: usize,
    progress: Py<PyAny>,
    train: impl FnOnce(&mut dyn FnMut(usize) -> bool) -> Result<Vec<Pair>, Error>,
) -> Result<Vec<Pair>, Error> {
    let mut failed = Ok(());
    let merges = train(&mut |n_merged| {
        let called = Python::attach(|py| progress.call1(py, ("merging", n_merged, n_merges)));
        failed = called.map(drop);
        failed.is_ok()
    });
    failed.map_err(|error| Error::Callback(error.to_string()))?;
    merges
}
