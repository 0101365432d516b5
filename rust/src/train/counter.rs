//! Counting the pre-tokens of a corpus on several threads, within a memory limit.

use super::piece_counts::{PieceCounts, count_texts};
use super::spill::{Pruned, Spill, training_bytes};
use crate::error::Error;
use crate::pretokenize::Pattern;
use crate::util::context::Context;
use crate::util::memory::{limit_malloc, trim_malloc};

/// Threads take texts in parts of at most this many bytes.
const PART_BYTES: usize = 1 << 20;

/// The batch size without a memory limit, in bytes: enough that no thread waits long for the last part.
const BATCH_BYTES: usize = 16 << 20;

/// Counts that grow text by text.
pub struct Counter<'a> {
    context: &'a Context,
    pattern: &'a Pattern,
    /// How many texts were added.
    n_texts: usize,
    /// The counts of each thread.
    partial: Vec<PieceCounts>,
    budget: Option<MemoryBudget>,
    spill: Option<Spill<'a>>,
}

/// A memory limit, divided by purpose. All sizes are in bytes and approximate.
#[derive(Debug, Clone, Copy)]
struct MemoryBudget {
    /// Text between two checks of the size of the counts. If every pre-token is new, its counts take
    /// about 20 times as much memory as the text.
    text: usize,
    /// Counts in memory. A table takes three times as much while it grows.
    counts: usize,
    /// Training, by [`training_bytes`].
    training: u64,
}

impl<'a> Counter<'a> {
    /// Count on the threads of `context` what `pattern` cuts, in about `memory_limit` bytes of memory
    /// if there is a limit.
    pub fn new(context: &'a Context, pattern: &'a Pattern, memory_limit: Option<u64>) -> Self {
        if memory_limit.is_some() {
            limit_malloc();
        }
        Counter {
            context,
            pattern,
            n_texts: 0,
            partial: vec![PieceCounts::default(); context.n_threads()],
            budget: memory_limit.map(|limit| MemoryBudget {
                text: limit as usize / 64,
                counts: limit as usize / 8,
                training: limit / 2,
            }),
            spill: None,
        }
    }

    /// Preferred batch size for [`Counter::add`], in bytes.
    pub fn batch_bytes(&self) -> usize {
        self.budget
            .map_or(BATCH_BYTES, |budget| budget.text.min(BATCH_BYTES))
    }

    /// Count the pre-tokens of each text.
    ///
    /// # Errors
    /// Fails if a regular expression gives up, if there is no room for the counts in memory or on disk,
    /// or if the context is stopped. The message names the text by its number since [`Counter::new`].
    pub fn add(&mut self, texts: &[&[u8]]) -> Result<(), Error> {
        let pattern = self.pattern;
        let first = self.n_texts;
        self.n_texts += texts.len();
        let parts = |n_bytes| {
            (first..).zip(texts).flat_map(move |(number, text)| {
                let parts = pattern.parts(text, n_bytes).into_iter();
                parts.map(move |part| (number, part))
            })
        };
        let Some(budget) = self.budget else {
            let parts: Vec<_> = parts(PART_BYTES).collect();
            return count_texts(self.context, &mut self.partial, pattern, &parts);
        };
        let part_bytes = PART_BYTES.min(budget.text / self.partial.len()).max(1);
        let (mut group, mut n_bytes) = (Vec::new(), 0);
        for part in parts(part_bytes) {
            n_bytes += part.1.len();
            group.push(part);
            if n_bytes >= budget.text {
                self.add_group(&group, budget)?;
                (group, n_bytes) = (Vec::new(), 0);
            }
        }
        self.add_group(&group, budget)
    }

    /// Count texts that are within the budget, and move the counts to disk if they are not.
    fn add_group(&mut self, texts: &[(usize, &[u8])], budget: MemoryBudget) -> Result<(), Error> {
        count_texts(self.context, &mut self.partial, self.pattern, texts)?;
        let n_bytes: usize = self.partial.iter().map(PieceCounts::n_bytes).sum();
        if n_bytes > budget.counts {
            self.spill_all()?;
        }
        Ok(())
    }

    /// Move all counts to disk.
    fn spill_all(&mut self) -> Result<&mut Spill<'a>, Error> {
        let spill = match &mut self.spill {
            Some(spill) => spill,
            none => none.insert(Spill::new(self.context)?),
        };
        for counts in &mut self.partial {
            spill.write(counts)?;
        }
        trim_malloc();
        Ok(spill)
    }

    /// Return all counts. If training on all of them would exceed the memory limit, return the most
    /// frequent pre-tokens only.
    ///
    /// # Errors
    /// Fails if there is no room for the counts in memory or on disk, or if the context is stopped.
    pub fn finish(mut self) -> Result<(PieceCounts, Pruned), Error> {
        if let Some(budget) = self.budget {
            let mut n_bytes = 0;
            for counts in &self.partial {
                counts.for_each(self.context, |piece, _| {
                    n_bytes += training_bytes(piece);
                    Ok(())
                })?;
            }
            if self.spill.is_some() || n_bytes > budget.training {
                let kept = self.spill_all()?.most_frequent(budget.training);
                trim_malloc();
                return kept;
            }
        }
        let mut all = PieceCounts::default();
        for counts in self.partial {
            all.append(self.context, counts)?;
        }
        Ok((all, Pruned::default()))
    }
}
