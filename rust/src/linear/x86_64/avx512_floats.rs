//! f32 and bf16 by AVX-512: four rows and up to six vectors at a time.
//!
//! Each product of a row and a vector has 16 partial sums in one register.

use std::arch::x86_64::*;
use std::ops::Range;

use super::MIN_AHEAD;
use crate::linear::{Activations, Output};

/// A type of weights.
pub trait Float: Copy {
    /// Load the weights whose bits in `mask` are set as f32, and 0 for the others.
    ///
    /// # Safety
    /// The processor must have the instructions of `Level::Avx512`, and these weights must exist.
    unsafe fn load(from: *const Self, mask: u16) -> __m512;
}

impl Float for f32 {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    unsafe fn load(from: *const f32, mask: u16) -> __m512 {
        // SAFETY: the caller promises it.
        unsafe { _mm512_maskz_loadu_ps(mask, from) }
    }
}

impl Float for u16 {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    unsafe fn load(from: *const u16, mask: u16) -> __m512 {
        // SAFETY: the caller promises it.
        let bits = unsafe { _mm256_maskz_loadu_epi16(mask, from.cast()) };
        _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(bits)))
    }
}

/// The bytes of weights that all vectors use before the next ones are read: they stay in the second
/// cache.
const ROWS_BYTES: usize = 256 << 10;

/// # Safety
/// The processor must have the instructions of `Level::Avx512`. Nothing else may access these rows of
/// `out` meanwhile.
pub unsafe fn floats<W: Float>(weights: &[W], rows: Range<usize>, x: &Activations, out: &Output) {
    let row_bytes = (x.columns() * size_of::<W>()).max(1);
    let n_rows = (ROWS_BYTES / row_bytes).max(4) / 4 * 4;
    for start in rows.clone().step_by(n_rows) {
        let rows = start..rows.end.min(start + n_rows);
        for vector in (0..x.vectors()).step_by(6) {
            // SAFETY: the caller promises it.
            unsafe {
                match x.vectors() - vector {
                    1 => some::<W, 1>(weights, rows.clone(), x, vector, out),
                    2 => some::<W, 2>(weights, rows.clone(), x, vector, out),
                    3 => some::<W, 3>(weights, rows.clone(), x, vector, out),
                    4 => some::<W, 4>(weights, rows.clone(), x, vector, out),
                    5 => some::<W, 5>(weights, rows.clone(), x, vector, out),
                    _ => some::<W, 6>(weights, rows.clone(), x, vector, out),
                }
            }
        }
    }
}

/// Multiply some rows by V vectors.
///
/// # Safety
/// As for `floats`.
unsafe fn some<W: Float, const V: usize>(
    weights: &[W],
    rows: Range<usize>,
    x: &Activations,
    vector: usize,
    out: &Output,
) {
    let fours = rows.len() / 4 * 4;
    // SAFETY: the caller promises it.
    unsafe {
        for row in (rows.start..rows.start + fours).step_by(4) {
            tile::<W, 4, V>(weights, row, x, vector, out);
        }
        for row in rows.start + fours..rows.end {
            tile::<W, 1, V>(weights, row, x, vector, out);
        }
    }
}

/// Multiply R rows by V vectors.
///
/// # Safety
/// As for `floats`.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn tile<W: Float, const R: usize, const V: usize>(
    weights: &[W],
    row: usize,
    x: &Activations,
    vector: usize,
    out: &Output,
) {
    let columns = x.columns();
    let mut w = [&weights[..0]; R];
    for r in 0..R {
        w[r] = &weights[(row + r) * columns..][..columns];
    }
    let mut of_x = [&[][..]; V];
    for (v, of_x) in of_x.iter_mut().enumerate() {
        *of_x = x.floats(vector + v);
    }
    let mut sums = [[_mm512_setzero_ps(); V]; R];
    // The next tile lies behind this one. Prefetching it in the order of addresses reads memory at full
    // speed, which several rows at a time would not.
    let line = 64 / size_of::<W>();
    let ahead = (R * columns).max(MIN_AHEAD / size_of::<W>());
    // A macro, because a closure for both uses would keep the sums in memory.
    macro_rules! add_products {
        ($i:expr, $mask:expr) => {
            let (i, mask) = ($i, $mask);
            let mut x = [_mm512_setzero_ps(); V];
            for v in 0..V {
                // SAFETY: the values from i on whose bits are set are within the columns.
                x[v] = unsafe { f32::load(of_x[v].as_ptr().add(i), mask) };
            }
            for r in 0..R {
                // SAFETY: as above.
                let w = unsafe { W::load(w[r].as_ptr().add(i), mask) };
                for v in 0..V {
                    sums[r][v] = _mm512_fmadd_ps(w, x[v], sums[r][v]);
                }
            }
        };
    }
    let whole = columns / 16 * 16;
    for i in (0..whole).step_by(16) {
        if i.is_multiple_of(line) {
            for r in 0..R {
                let next = w[0].as_ptr().wrapping_add(ahead + R * i + line * r);
                _mm_prefetch::<_MM_HINT_T1>(next.cast());
            }
        }
        add_products!(i, u16::MAX);
    }
    if whole < columns {
        add_products!(whole, (1 << (columns - whole)) - 1);
    }
    for (r, sums) in sums.iter().enumerate() {
        for (v, &sum) in sums.iter().enumerate() {
            // SAFETY: the caller promises it.
            unsafe { out.of(vector + v, row + r..row + r + 1)[0] = sum_of(sum) };
        }
    }
}

/// Return the sum of 16 values, added in a fixed order.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn sum_of(v: __m512) -> f32 {
    let low = _mm512_castps512_ps256(v);
    let high = _mm256_castpd_ps(_mm512_extractf64x4_pd::<1>(_mm512_castps_pd(v)));
    let v = _mm256_add_ps(low, high);
    let v = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
    let v = _mm_add_ps(v, _mm_movehl_ps(v, v));
    _mm_cvtss_f32(_mm_add_ss(v, _mm_shuffle_ps::<1>(v, v)))
}
