//! How many windows of some texts, stretches of a number of bytes, occur in other texts.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::Error;
use crate::util::context::Context;
use crate::util::memory::try_reserve;
use crate::util::parallel::for_each;

/// Long texts are divided into parts of so many windows.
const PART: usize = 1 << 18;

/// Windows have rolling hashes of 64 bits: a sum of a number for each byte, times powers of this one.
const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

/// The filter has 2 to this power times as many bits as there are starts, 16 or more for each hash.
const LOG2_FILTER: u32 = 6;

/// Return how many windows of `val` occur in `train`, and how many windows `val` has.
///
/// A window is `n_bytes` long and inside a single text. Windows are compared by a hash of 64 bits.
///
/// # Errors
/// Fails if there is not enough memory, or if the context is stopped.
pub fn shared_windows(
    context: &Context,
    train: &[&[u8]],
    val: &[&[u8]],
    n_bytes: usize,
) -> Result<(usize, usize), Error> {
    let roller = Roller::new(n_bytes);
    let mut hashes = Vec::new();
    for part in parts(val, n_bytes) {
        context.check()?;
        try_reserve(&mut hashes, part.len())?;
        roller.for_each(part, |hash| hashes.push(hash));
    }
    if hashes.is_empty() {
        return Ok((0, 0));
    }
    hashes.sort_unstable();
    let index = Index::new(hashes)?;
    let train: Vec<_> = parts(train, n_bytes).collect();
    let mut threads = vec![(); context.n_threads()];
    for_each(context, &mut threads, train.len(), |(), i| {
        roller.for_each(train[i], |hash| index.mark(hash));
        Ok(())
    })?;
    Ok((index.n_marked(), index.hashes.len()))
}

/// Divide texts into parts that overlap, so that each window is in one of them.
fn parts<'a>(texts: &'a [&[u8]], n_bytes: usize) -> impl Iterator<Item = &'a [u8]> {
    texts.iter().flat_map(move |text| {
        let n_windows = (text.len() + 1).saturating_sub(n_bytes);
        let starts = (0..n_windows).step_by(PART);
        starts.map(move |start| &text[start..n_windows.min(start + PART) + n_bytes - 1])
    })
}

/// Hashes each window of a text.
struct Roller {
    n_bytes: usize,
    /// What a byte adds when it enters the window.
    entering: [u64; 256],
    /// What is left of it when it leaves.
    leaving: [u64; 256],
}

impl Roller {
    fn new(n_bytes: usize) -> Self {
        let power = (0..n_bytes).fold(1, |power: u64, _| power.wrapping_mul(FACTOR));
        let entering = std::array::from_fn(|byte| mixed(byte as u64));
        let leaving = entering.map(|number| number.wrapping_mul(power));
        Roller {
            n_bytes,
            entering,
            leaving,
        }
    }

    fn for_each(&self, text: &[u8], mut visit: impl FnMut(u64)) {
        let (first, rest) = text.split_at(self.n_bytes.min(text.len()));
        if first.len() < self.n_bytes {
            return;
        }
        let enter = |hash: u64, byte: u8| {
            let moved = hash.wrapping_mul(FACTOR);
            moved.wrapping_add(self.entering[usize::from(byte)])
        };
        let mut hash = first.iter().fold(0, |hash, &byte| enter(hash, byte));
        visit(hash);
        for (&new, &old) in rest.iter().zip(text) {
            hash = enter(hash, new).wrapping_sub(self.leaving[usize::from(old)]);
            visit(hash);
        }
    }
}

/// The mixing function of splitmix64.
fn mixed(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// Sorted hashes, not all different, and which of them are marked.
struct Index {
    hashes: Vec<u64>,
    /// Where the hashes begin that start with each value of the highest bits.
    starts: Vec<usize>,
    /// A bit for each value of more of the highest bits: whether a hash starts with it.
    filter: Vec<u64>,
    /// The number of bits that the starts leave out, and that the filter leaves out.
    shifts: (u32, u32),
    /// Of equal hashes, the first is marked.
    marked: Vec<AtomicBool>,
}

impl Index {
    fn new(hashes: Vec<u64>) -> Result<Self, Error> {
        let n_bits = hashes.len().ilog2().max(2) - 1;
        let n_filter_bits = n_bits + LOG2_FILTER;
        let shifts = (64 - n_bits, 64 - n_filter_bits);
        let (mut starts, mut filter, mut marked) = (Vec::new(), Vec::new(), Vec::new());
        try_reserve(&mut starts, (1 << n_bits) + 1)?;
        try_reserve(&mut filter, 1 << (n_filter_bits - 6))?;
        try_reserve(&mut marked, hashes.len())?;
        filter.resize(1 << (n_filter_bits - 6), 0);
        marked.resize_with(hashes.len(), AtomicBool::default);
        for (i, &hash) in hashes.iter().enumerate() {
            starts.resize(starts.len().max((hash >> shifts.0) as usize + 1), i);
            let bit = hash >> shifts.1;
            filter[(bit / 64) as usize] |= 1 << (bit % 64);
        }
        starts.resize((1 << n_bits) + 1, hashes.len());
        Ok(Index {
            hashes,
            starts,
            filter,
            shifts,
            marked,
        })
    }

    #[inline(always)]
    fn mark(&self, hash: u64) {
        let bit = hash >> self.shifts.1;
        if self.filter[(bit / 64) as usize] >> (bit % 64) & 1 == 1 {
            self.mark_if_there(hash);
        }
    }

    fn mark_if_there(&self, hash: u64) {
        let bits = (hash >> self.shifts.0) as usize;
        for i in self.starts[bits]..self.starts[bits + 1] {
            if self.hashes[i] == hash {
                // A write would take the cache line from other threads.
                if !self.marked[i].load(Ordering::Relaxed) {
                    self.marked[i].store(true, Ordering::Relaxed);
                }
                break;
            }
        }
    }

    fn n_marked(&self) -> usize {
        let equal = self.hashes.chunk_by(|a, b| a == b);
        let (mut first, mut n_marked) = (0, 0);
        for hashes in equal {
            n_marked += hashes.len() * usize::from(self.marked[first].load(Ordering::Relaxed));
            first += hashes.len();
        }
        n_marked
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn the_counts_are_those_of_sets() {
        // Two letters, so that windows recur; a text of several parts.
        let text_of = |seed: u64, n: u64| -> Vec<u8> {
            let letters = (0..n).map(|i| b"ab"[(mixed(seed << 32 | i) % 2) as usize]);
            letters.collect()
        };
        let train = [text_of(1, 270_000), text_of(2, 4), text_of(3, 500), vec![]];
        let val = [text_of(4, 20_000), text_of(3, 300), text_of(5, 19)];
        let [train, val] = [&train[..], &val].map(|texts| {
            let texts = texts.iter().map(Vec::as_slice);
            texts.collect::<Vec<_>>()
        });
        for n_bytes in [1, 18, 20] {
            let seen: HashSet<_> = train
                .iter()
                .flat_map(|text| text.windows(n_bytes))
                .collect();
            let windows: Vec<_> = val.iter().flat_map(|text| text.windows(n_bytes)).collect();
            let n_found = windows
                .iter()
                .filter(|window| seen.contains(*window))
                .count();
            for n_threads in [1, 3] {
                let context = Context::new(n_threads);
                let counts = shared_windows(&context, &train, &val, n_bytes).unwrap();
                assert_eq!(counts, (n_found, windows.len()), "{n_bytes}");
            }
        }
        let none = shared_windows(&Context::default(), &train, &[b"a"], 2).unwrap();
        assert_eq!(none, (0, 0));
    }
}
