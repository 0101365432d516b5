//! Counts of pre-tokens on disk, for when memory is short.

use std::collections::BTreeMap;
use std::collections::hash_map::RandomState;
use std::fs::File;
use std::hash::BuildHasher;
use std::io::{self, BufReader, BufWriter, Read, Seek, Write};

use rustc_hash::FxBuildHasher;

use super::piece_counts::PieceCounts;
use crate::error::Error;
use crate::util::context::Context;

/// The number of files. All counts of one pre-token are in the same file, and the counts of one file
/// fit into memory unless there are hundreds of times as many as the limit allows.
const N_FILES: usize = 128;

/// Temporary files of pre-tokens and counts, in the system's temporary folder. They have no names, so
/// they are gone when the process ends, however it ends.
pub struct Spill<'a> {
    context: &'a Context,
    files: Vec<BufWriter<File>>,
    /// The hash that decides in which file a pre-token is.
    hasher: RandomState,
}

/// The pre-tokens that were left out for want of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pruned {
    /// The number of distinct pre-tokens left out.
    pub pieces: u64,
    /// The highest count among them.
    pub max_count: u64,
}

impl<'a> Spill<'a> {
    /// Create the files.
    ///
    /// # Errors
    /// Fails if the temporary folder is not writable.
    pub fn new(context: &'a Context) -> Result<Self, Error> {
        let file = |_| tempfile::tempfile().map(BufWriter::new).map_err(disk_error);
        Ok(Spill {
            context,
            files: (0..N_FILES).map(file).collect::<Result<_, _>>()?,
            hasher: RandomState::new(),
        })
    }

    /// Write counts to the files, and clear them.
    ///
    /// # Errors
    /// Fails if there is no room on the disk, or if the context is stopped.
    pub fn write(&mut self, counts: &mut PieceCounts) -> Result<(), Error> {
        counts.for_each(self.context, |piece, count| {
            let i = self.hasher.hash_one(piece) as usize % N_FILES;
            write_record(&mut self.files[i], piece, count).map_err(disk_error)
        })?;
        *counts = PieceCounts::default();
        Ok(())
    }

    /// Return the counts of the most frequent pre-tokens: as many as can be trained on in `max_bytes` of
    /// memory, by [`training_bytes`].
    ///
    /// Among pre-tokens with the same count a hash decides, so the order of counting does not matter.
    ///
    /// # Errors
    /// Fails if the files can't be read, if there is not enough memory, or if the context is stopped.
    pub fn most_frequent(&mut self, max_bytes: u64) -> Result<(PieceCounts, Pruned), Error> {
        // By count: the memory for training on all pre-tokens with that count.
        let mut sizes: BTreeMap<u64, u64> = BTreeMap::new();
        for file in &mut self.files {
            let counts = read_counts(self.context, file)?;
            counts.for_each(self.context, |piece, count| {
                *sizes.entry(count).or_default() += training_bytes(piece);
                Ok(())
            })?;
        }
        // The count at which the room ends, and the fraction of its pre-tokens that are left out.
        let mut room = max_bytes;
        let mut cutoff = (0, 0.0);
        for (&count, &n_bytes) in sizes.iter().rev() {
            if n_bytes > room {
                cutoff = (count, 1.0 - room as f64 / n_bytes as f64);
                break;
            }
            room -= n_bytes;
        }
        let mut kept = PieceCounts::default();
        let mut pruned = Pruned::default();
        for file in &mut self.files {
            let counts = read_counts(self.context, file)?;
            counts.for_each(self.context, |piece, count| {
                let fits = || training_bytes(piece) <= room && hash_fraction(piece) >= cutoff.1;
                if count > cutoff.0 || (count == cutoff.0 && fits()) {
                    kept.add(piece, count)?;
                } else {
                    pruned.pieces += 1;
                    pruned.max_count = pruned.max_count.max(count);
                }
                Ok(())
            })?;
        }
        Ok((kept, pruned))
    }
}

/// A number from 0 to 1 that depends on the pre-token alone.
fn hash_fraction(piece: &[u8]) -> f64 {
    FxBuildHasher.hash_one(piece) as f64 / u64::MAX as f64
}

/// The approximate memory for training on one distinct pre-token, in bytes: its count, its tokens, and
/// an entry in the list of words of each of its pairs.
pub fn training_bytes(piece: &[u8]) -> u64 {
    96 + 12 * piece.len() as u64
}

fn write_record(file: &mut impl Write, piece: &[u8], count: u64) -> io::Result<()> {
    file.write_all(&(piece.len() as u64).to_le_bytes())?;
    file.write_all(&count.to_le_bytes())?;
    file.write_all(piece)
}

/// Read a file and add up the counts of each pre-token.
fn read_counts(context: &Context, file: &mut BufWriter<File>) -> Result<PieceCounts, Error> {
    file.flush().map_err(disk_error)?;
    file.get_ref().rewind().map_err(disk_error)?;
    let mut reader = BufReader::new(file.get_ref());
    let mut counts = PieceCounts::default();
    let mut piece = Vec::new();
    for step in (0..=u32::MAX).cycle() {
        context.check_at(step)?;
        match read_record(&mut reader, &mut piece).map_err(disk_error)? {
            Some(count) => counts.add(&piece, count)?,
            None => break,
        }
    }
    Ok(counts)
}

/// Read the next record: the pre-token into `piece`, and return its count; None at the end of the file.
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

fn disk_error(error: io::Error) -> Error {
    Error::Disk(format!(
        "can't keep counts in the folder for temporary files, {} ({error}): make room there, name \
         another with TMPDIR, or allow more memory",
        std::env::temp_dir().display()
    ))
}
