//! f32 and bf16 by AVX2: four rows at a time.
//!
//! Each product of a row and a vector has 16 partial sums in two registers, in the order that the code for
//! AVX-512 has.

use std::arch::x86_64::*;
use std::ops::Range;

use crate::linear::blocks::bf16_to_f32;
use crate::linear::{Activations, Output};

/// A type of weights.
pub trait Float: Copy {
    /// Load 16 weights as f32.
    ///
    /// # Safety
    /// The processor must have the instructions of `Level::Avx2`, and there must be 16 weights.
    unsafe fn load(from: *const Self) -> [__m256; 2];

    fn to_f32(self) -> f32;
}

impl Float for f32 {
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn load(from: *const f32) -> [__m256; 2] {
        // SAFETY: the caller promises it.
        unsafe { [_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8))] }
    }

    #[inline]
    fn to_f32(self) -> f32 {
        self
    }
}

impl Float for u16 {
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn load(from: *const u16) -> [__m256; 2] {
        // SAFETY: the caller promises it.
        let (low, high) = unsafe {
            let from = from.cast::<__m128i>();
            (_mm_loadu_si128(from), _mm_loadu_si128(from.add(1)))
        };
        let wide = |v| _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(v)));
        [wide(low), wide(high)]
    }

    #[inline]
    fn to_f32(self) -> f32 {
        bf16_to_f32(self)
    }
}

/// # Safety
/// The processor must have the instructions of `Level::Avx2`. Nothing else may access these rows of
/// `out` meanwhile.
pub unsafe fn floats<W: Float>(weights: &[W], rows: Range<usize>, x: &Activations, out: &Output) {
    let fours = rows.len() / 4 * 4;
    // SAFETY: the caller promises it.
    unsafe {
        for row in (rows.start..rows.start + fours).step_by(4) {
            tile::<W, 4>(weights, row, x, out);
        }
        for row in rows.start + fours..rows.end {
            tile::<W, 1>(weights, row, x, out);
        }
    }
}

/// Multiply R rows by every vector.
///
/// # Safety
/// As for `floats`.
#[target_feature(enable = "avx2,fma")]
unsafe fn tile<W: Float, const R: usize>(weights: &[W], row: usize, x: &Activations, out: &Output) {
    let columns = x.columns();
    let w = &weights[row * columns..][..R * columns];
    let whole = columns / 16 * 16;
    let line = 64 / size_of::<W>();
    for vector in 0..x.vectors() {
        let x = x.floats(vector);
        let mut sums = [[_mm256_setzero_ps(); 2]; R];
        for i in (0..whole).step_by(16) {
            // The next tile lies behind this one: prefetch it in the order of addresses.
            if i.is_multiple_of(line) {
                for r in 0..R {
                    let next = w.as_ptr().wrapping_add(R * (columns + i) + line * r);
                    _mm_prefetch::<_MM_HINT_T1>(next.cast());
                }
            }
            // SAFETY: 16 values from i on are within the columns.
            let x = unsafe { f32::load(x.as_ptr().add(i)) };
            for (r, sums) in sums.iter_mut().enumerate() {
                // SAFETY: as above, in row r.
                let w = unsafe { W::load(w.as_ptr().add(r * columns + i)) };
                for half in 0..2 {
                    sums[half] = _mm256_fmadd_ps(w[half], x[half], sums[half]);
                }
            }
        }
        for (r, sums) in sums.iter().enumerate() {
            let mut lanes = [0.0f32; 16];
            // SAFETY: the array has two times 8 values.
            unsafe {
                _mm256_storeu_ps(lanes.as_mut_ptr(), sums[0]);
                _mm256_storeu_ps(lanes.as_mut_ptr().add(8), sums[1]);
            }
            let rest = w[r * columns + whole..][..columns - whole]
                .iter()
                .zip(&x[whole..]);
            for (lane, (w, &x)) in lanes.iter_mut().zip(rest) {
                *lane = w.to_f32().mul_add(x, *lane);
            }
            // Add the lower and the upper half, again and again.
            for n in [8, 4, 2, 1] {
                for i in 0..n {
                    lanes[i] += lanes[n + i];
                }
            }
            // SAFETY: the caller promises it.
            unsafe { out.of(vector, row + r..row + r + 1)[0] = lanes[0] };
        }
    }
}
