//! Counting the pre-tokens of a corpus on several threads, within a memory limit.

use std::sync::atomic::AtomicBool;

use crate::error::Error;
use crate::pretokenize::Pattern;
use crate::train::piece_counts::{PieceCounts, count_texts};
use crate::train::spill::{LeftOut, Spill, training_bytes};
use crate::util::memory::{give_back, keep_little};

/// How large the parts of a text are that threads take.
const PART: usize = 1 << 20;

/// Enough that no thread waits long for the last part.
const BATCH: usize = 16 << 20;

/// Counts that grow text by text.
pub struct Counter {
    /// Of each thread.
    partial: Vec<PieceCounts>,
    limit: Option<Limit>,
    spill: Option<Spill>,
}

/// What the bytes of a memory limit are for.
#[derive(Debug, Clone, Copy)]
struct Limit {
    /// Text between two looks at how large the counts are. Where every pre-token is new, their counts
    /// take about 20 times as much memory.
    text: usize,
    /// Counts in memory. While a table grows, it takes three times as much.
    counts: usize,
    /// Training, by [`training_bytes`]. These are rough.
    training: u64,
}

impl Counter {
    /// Count with so many threads, and if there is a limit, in about so many bytes of memory.
    pub fn new(n_threads: usize, memory_limit: Option<u64>) -> Self {
        if memory_limit.is_some() {
            keep_little();
        }
        Counter {
            partial: vec![PieceCounts::default(); n_threads],
            limit: memory_limit.map(|limit| Limit {
                text: limit as usize / 64,
                counts: limit as usize / 8,
                training: limit / 2,
            }),
            spill: None,
        }
    }

    /// How many bytes of texts it is well to have at hand for one [`Counter::add`].
    pub fn batch_bytes(&self) -> usize {
        self.limit.map_or(BATCH, |limit| limit.text.min(BATCH))
    }

    /// Count the pre-tokens of texts, each by itself.
    ///
    /// Fails if a regular expression gives up, or if the counts can't be kept, or
    /// soon after `stop` has become true.
    pub fn add(
        &mut self,
        pattern: &Pattern,
        texts: &[&[u8]],
        stop: &AtomicBool,
    ) -> Result<(), Error> {
        let Some(limit) = self.limit else {
            let parts = texts.iter().flat_map(|text| pattern.parts(text, PART));
            let parts: Vec<&[u8]> = parts.collect();
            return count_texts(&mut self.partial, pattern, &parts, stop);
        };
        let part = PART.min(limit.text / self.partial.len()).max(1);
        let (mut group, mut n_bytes) = (Vec::new(), 0);
        for text in texts.iter().flat_map(|text| pattern.parts(text, part)) {
            group.push(text);
            n_bytes += text.len();
            if n_bytes >= limit.text {
                self.add_some(pattern, &group, limit, stop)?;
                (group, n_bytes) = (Vec::new(), 0);
            }
        }
        self.add_some(pattern, &group, limit, stop)
    }

    fn add_some(
        &mut self,
        pattern: &Pattern,
        texts: &[&[u8]],
        limit: Limit,
        stop: &AtomicBool,
    ) -> Result<(), Error> {
        count_texts(&mut self.partial, pattern, texts, stop)?;
        let n_bytes: usize = self.partial.iter().map(PieceCounts::n_bytes).sum();
        if n_bytes > limit.counts {
            self.write_out(stop)?;
        }
        Ok(())
    }

    /// Move all counts to disk.
    fn write_out(&mut self, stop: &AtomicBool) -> Result<&mut Spill, Error> {
        let spill = match &mut self.spill {
            Some(spill) => spill,
            none => none.insert(Spill::new()?),
        };
        for counts in &mut self.partial {
            spill.take(counts, stop)?;
        }
        give_back();
        Ok(spill)
    }

    /// All counts, or as many of the highest as training has memory for.
    pub fn finish(mut self, stop: &AtomicBool) -> Result<(PieceCounts, LeftOut), Error> {
        if let Some(limit) = self.limit {
            let mut n_bytes = 0;
            for counts in &self.partial {
                counts.for_each(stop, |piece, _| {
                    n_bytes += training_bytes(piece);
                    Ok(())
                })?;
            }
            if self.spill.is_some() || n_bytes > limit.training {
                let fitting = self.write_out(stop)?.most_frequent(limit.training, stop);
                give_back();
                return fitting;
            }
        }
        let mut all = PieceCounts::default();
        for counts in self.partial {
            all.append(counts, stop)?;
        }
        Ok((all, LeftOut::default()))
    }
}
