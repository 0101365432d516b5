//! f32 and bf16 by NEON: four rows at a time.
//!
//! Each product of a row and a vector has 16 partial sums in four registers, in the order that the
//! portable code has.

use std::arch::aarch64::*;
use std::ops::Range;

use crate::linear::blocks::bf16_to_f32;
use crate::linear::{Activations, Output};

/// A type of weights.
pub trait Float: Copy {
    /// Load 16 weights as f32.
    ///
    /// # Safety
    /// The processor must have NEON, and there must be 16 weights.
    unsafe fn load(from: *const Self) -> [float32x4_t; 4];

    fn to_f32(self) -> f32;
}

impl Float for f32 {
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn load(from: *const f32) -> [float32x4_t; 4] {
        // SAFETY: the caller promises it.
        [0, 4, 8, 12].map(|i| unsafe { vld1q_f32(from.add(i)) })
    }

    #[inline]
    fn to_f32(self) -> f32 {
        self
    }
}

impl Float for u16 {
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn load(from: *const u16) -> [float32x4_t; 4] {
        // SAFETY: the caller promises it.
        [0, 4, 8, 12].map(|i| unsafe {
            let bits = vmovl_u16(vld1_u16(from.add(i)));
            vreinterpretq_f32_u32(vshlq_n_u32::<16>(bits))
        })
    }

    #[inline]
    fn to_f32(self) -> f32 {
        bf16_to_f32(self)
    }
}

/// # Safety
/// The processor must have NEON. Nothing else may access these rows of `out` meanwhile.
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
#[target_feature(enable = "neon")]
unsafe fn tile<W: Float, const R: usize>(weights: &[W], row: usize, x: &Activations, out: &Output) {
    let columns = x.columns();
    let w = &weights[row * columns..][..R * columns];
    let whole = columns / 16 * 16;
    for vector in 0..x.vectors() {
        let x = x.floats(vector);
        let mut sums = [[vdupq_n_f32(0.0); 4]; R];
        for i in (0..whole).step_by(16) {
            // SAFETY: 16 values from i on are within the columns.
            let x = unsafe { f32::load(x.as_ptr().add(i)) };
            for (r, sums) in sums.iter_mut().enumerate() {
                // SAFETY: as above, in row r.
                let w = unsafe { W::load(w.as_ptr().add(r * columns + i)) };
                for part in 0..4 {
                    sums[part] = vfmaq_f32(sums[part], w[part], x[part]);
                }
            }
        }
        for (r, sums) in sums.iter().enumerate() {
            let mut lanes = [0.0f32; 16];
            for (to, &sum) in lanes.as_chunks_mut::<4>().0.iter_mut().zip(sums) {
                // SAFETY: there are four lanes.
                unsafe { vst1q_f32(to.as_mut_ptr(), sum) };
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
