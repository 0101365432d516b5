//! A product on several threads that end with it.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crate::error::Error;
use crate::linear::{Activations, Matrix, Output, multiply};

/// The rows that the fastest code computes together. Ranges of rows should begin at multiples.
pub const TILE: usize = 16;

/// Matrices of fewer bytes are multiplied on one thread: starting another would take longer.
const MIN_BYTES: usize = 1 << 20;

/// Return the rows that thread `part` of `parts` computes.
pub fn share(rows: usize, part: usize, parts: usize) -> Range<usize> {
    let tiles = rows.div_ceil(TILE);
    let start = |part: usize| (tiles * part / parts * TILE).min(rows);
    start(part)..start(part + 1)
}

/// Compute the product of `matrix` and every vector of `x`, on at most `n_threads` threads.
///
/// # Errors
/// Fails unless `x` and `out` have the shape that `matrix` needs.
pub fn multiply_parallel(
    matrix: &Matrix,
    x: &Activations,
    out: &mut [f32],
    n_threads: usize,
) -> Result<(), Error> {
    let rows = matrix.rows();
    if (x.columns(), x.is_quantized()) != (matrix.columns(), matrix.is_quantized())
        || out.len() != x.vectors() * rows
    {
        return Err(Error::Shape(format!(
            "{} vectors of {} values, and {} values for the product: expected vectors of {} for a \
             matrix of {rows} x {}",
            x.vectors(),
            x.columns(),
            out.len(),
            matrix.columns(),
            matrix.columns()
        )));
    }
    if out.is_empty() {
        return Ok(());
    }
    let out = Output::new(out, rows);
    let is_small = matrix.n_bytes() * x.vectors().div_ceil(4) < MIN_BYTES;
    let n_threads = if is_small { 1 } else { n_threads.max(1) };
    // More parts than threads: a thread that the system holds up delays the others less.
    let n_parts = if n_threads == 1 { 1 } else { 4 * n_threads };
    let next = AtomicUsize::new(0);
    let work = || {
        loop {
            let part = next.fetch_add(1, Ordering::Relaxed);
            if part >= n_parts {
                return;
            }
            // SAFETY: no two parts have rows in common, and each is taken once.
            unsafe { multiply(matrix, share(rows, part, n_parts), x, &out) };
        }
    };
    thread::scope(|scope| {
        for _ in 1..n_threads {
            // If no thread can be started, those that run do all the work.
            let _ = thread::Builder::new().spawn_scoped(scope, work);
        }
        work();
    });
    Ok(())
}
