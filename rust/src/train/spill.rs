//! Counts of pre-tokens on disk, while there is no memory for them.

use std::collections::BTreeMap;
use std::collections::hash_map::RandomState;
use std::fs::File;
use std::hash::BuildHasher;
use std::io::{self, BufReader, BufWriter, Read, Seek, Write};
use std::sync::atomic::AtomicBool;

use rustc_hash::FxBuildHasher;

use crate::error::Error;
use crate::train::piece_counts::PieceCounts;
use crate::util::interrupt::check_at;

/// Pre-tokens are spread over so many files: all counts of one pre-token are in the same, and a file's
/// counts fit into memory unless there are hundreds of times as many as do.
const N_FILES: usize = 128;

/// Temporary files of pre-tokens and counts, in the system's folder for those. They have no name there:
/// they are gone when the process ends, however it ends.
pub struct Spill {
    files: Vec<BufWriter<File>>,
    spread: RandomState,
}

/// What did not fit into memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LeftOut {
    /// How many distinct pre-tokens.
    pub pieces: u64,
    /// None of them occurs more often than this.
    pub at_most: u64,
}

impl Spill {
    /// Make the files.
    pub fn new() -> Result<Self, Error> {
        let file = |_| tempfile::tempfile().map(BufWriter::new).map_err(no_space);
        Ok(Spill {
            files: (0..N_FILES).map(file).collect::<Result<_, _>>()?,
            spread: RandomState::new(),
        })
    }

    /// Write counts to the files and empty them. Fails soon after `stop` has become true.
    pub fn take(&mut self, counts: &mut PieceCounts, stop: &AtomicBool) -> Result<(), Error> {
        counts.for_each(stop, |piece, count| {
            let i = self.spread.hash_one(piece) as usize % N_FILES;
            write_record(&mut self.files[i], piece, count).map_err(no_space)
        })?;
        *counts = PieceCounts::default();
        Ok(())
    }

    /// The counts of the most frequent pre-tokens: as many as training takes `max_bytes` of memory for,
    /// by [`training_bytes`]. Of those that occur equally often a hash decides, so it does not matter
    /// in which order they were counted.
    ///
    /// Fails if the files can't be read, or soon after `stop` has become true.
    pub fn most_frequent(
        &mut self,
        max_bytes: u64,
        stop: &AtomicBool,
    ) -> Result<(PieceCounts, LeftOut), Error> {
        // By how often pre-tokens occur: the bytes that those take together.
        let mut sizes: BTreeMap<u64, u64> = BTreeMap::new();
        for file in &mut self.files {
            let counts = read_counts(file, stop)?;
            counts.for_each(stop, |piece, count| {
                *sizes.entry(count).or_default() += training_bytes(piece);
                Ok(())
            })?;
        }
        // The count at which there is no more room, and the share of its pre-tokens that are left out.
        let mut room = max_bytes;
        let mut border = (0, 0.0);
        for (&count, &n_bytes) in sizes.iter().rev() {
            if n_bytes > room {
                border = (count, 1.0 - room as f64 / n_bytes as f64);
                break;
            }
            room -= n_bytes;
        }
        let mut kept = PieceCounts::default();
        let mut left_out = LeftOut::default();
        for file in &mut self.files {
            let counts = read_counts(file, stop)?;
            counts.for_each(stop, |piece, count| {
                let fits = || training_bytes(piece) <= room && share_at(piece) >= border.1;
                if count > border.0 || (count == border.0 && fits()) {
                    kept.add(piece, count)?;
                } else {
                    left_out.pieces += 1;
                    left_out.at_most = left_out.at_most.max(count);
                }
                Ok(())
            })?;
        }
        Ok((kept, left_out))
    }
}

/// A number from 0 to 1 that depends on nothing but the pre-token.
fn share_at(piece: &[u8]) -> f64 {
    FxBuildHasher.hash_one(piece) as f64 / u64::MAX as f64
}

/// About how many bytes of memory it takes to train on a distinct pre-token: for its count, its tokens,
/// and for each pair of these the places where pairs are listed.
pub fn training_bytes(piece: &[u8]) -> u64 {
    96 + 12 * piece.len() as u64
}

fn write_record(file: &mut impl Write, piece: &[u8], count: u64) -> io::Result<()> {
    file.write_all(&(piece.len() as u64).to_le_bytes())?;
    file.write_all(&count.to_le_bytes())?;
    file.write_all(piece)
}

/// The sums of all counts in a file.
fn read_counts(file: &mut BufWriter<File>, stop: &AtomicBool) -> Result<PieceCounts, Error> {
    file.flush().map_err(no_space)?;
    file.get_ref().rewind().map_err(no_space)?;
    let mut reader = BufReader::new(file.get_ref());
    let mut counts = PieceCounts::default();
    let mut piece = Vec::new();
    for step in (0..=u32::MAX).cycle() {
        check_at(step, stop)?;
        match read_record(&mut reader, &mut piece).map_err(no_space)? {
            Some(count) => counts.add(&piece, count)?,
            None => break,
        }
    }
    Ok(counts)
}

/// The next count, and its pre-token in `piece`; None at the end.
fn read_record(reader: &mut impl Read, piece: &mut Vec<u8>) -> io::Result<Option<u64>> {
    let (mut length, mut count) = ([0; 8], [0; 8]);
    match reader.read_exact(&mut length) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        done => done?,
    }
    reader.read_exact(&mut count)?;
    piece.resize(u64::from_le_bytes(length) as usize, 0);
    reader.read_exact(piece)?;
    Ok(Some(u64::from_le_bytes(count)))
}

fn no_space(error: io::Error) -> Error {
    Error::Disk(format!(
        "can't keep counts in the folder for temporary files, {} ({error}): make room there, name \
         another with TMPDIR, or allow more memory",
        std::env::temp_dir().display()
    ))
}
