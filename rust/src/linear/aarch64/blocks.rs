//! Blocks by NEON: 4 rows at a time.
//!
//! The instruction `sdot` adds four products of bytes to each of four sums. The sums of four rows are then
//! added up to one register, which has a row in each lane.

use std::arch::aarch64::*;
use std::arch::asm;

use crate::linear::Activations;
use crate::linear::blocks::{Q4_0_BYTES, Q4_0_OFFSET, Q8_0_BYTES};

/// The rows that are computed together.
const ROWS: usize = 4;

/// A format of blocks.
pub trait Blocks {
    /// The bytes of a block.
    const BYTES: usize;

    /// Load the 32 integers of a block.
    ///
    /// # Safety
    /// The processor must have NEON, and there must be a block at `block`.
    unsafe fn load(block: *const u8) -> [int8x16_t; 2];
}

pub struct Q8_0;
pub struct Q4_0;

impl Blocks for Q8_0 {
    const BYTES: usize = Q8_0_BYTES;

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn load(block: *const u8) -> [int8x16_t; 2] {
        // SAFETY: the block has 32 bytes after its scale.
        unsafe {
            let integers = block.add(2).cast::<i8>();
            [vld1q_s8(integers), vld1q_s8(integers.add(16))]
        }
    }
}

impl Blocks for Q4_0 {
    const BYTES: usize = Q4_0_BYTES;

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn load(block: *const u8) -> [int8x16_t; 2] {
        // SAFETY: the block has 16 bytes after its scale.
        unsafe {
            let bytes = vld1q_u8(block.add(2));
            let halves = [vandq_u8(bytes, vdupq_n_u8(15)), vshrq_n_u8::<4>(bytes)];
            halves.map(|q| vsubq_s8(vreinterpretq_s8_u8(q), vdupq_n_s8(Q4_0_OFFSET)))
        }
    }
}

/// Return the sum of the products of weights and activations, in four parts.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn dot(w: [int8x16_t; 2], q: [int8x16_t; 2]) -> int32x4_t {
    let mut sums = vdupq_n_s32(0);
    for (w, q) in w.into_iter().zip(q) {
        // SAFETY: the instruction only changes `sums`. Its intrinsic, `vdotq_s32`, is not stable.
        unsafe {
            asm!(
                "sdot {sums:v}.4s, {w:v}.16b, {q:v}.16b",
                sums = inout(vreg) sums, w = in(vreg) w, q = in(vreg) q,
                options(pure, nomem, nostack, preserves_flags),
            );
        }
    }
    sums
}

/// Convert four f16 to f32, exactly.
#[inline]
#[target_feature(enable = "neon")]
fn f16_to_f32(bits: uint16x4_t) -> float32x4_t {
    let values: float32x4_t;
    // SAFETY: the instruction only writes `values`. Its intrinsic, `vcvt_f32_f16`, needs Rust 1.94.
    unsafe {
        asm!(
            "fcvtl {values:v}.4s, {bits:v}.4h",
            values = lateout(vreg) values, bits = in(vreg) bits,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    values
}

/// Compute the products of 4 rows and as many vectors, from number `start` on, as there are `sums`.
///
/// # Safety
/// The processor must have the instructions of `Level::Neon`, and `bytes` 4 rows of `stride` bytes.
#[target_feature(enable = "neon,dotprod")]
pub unsafe fn tile<B: Blocks>(
    bytes: &[u8],
    stride: usize,
    x: &Activations,
    start: usize,
    sums: &mut [[f32; ROWS]],
) {
    sums.fill([0.0; ROWS]);
    for block in 0..stride / B::BYTES {
        let of_row: [&[u8]; ROWS] =
            std::array::from_fn(|row| &bytes[row * stride + block * B::BYTES..][..B::BYTES]);
        let scales = of_row.map(|block| u16::from_le_bytes([block[0], block[1]]));
        // SAFETY: there are four scales.
        let w_scales = f16_to_f32(unsafe { vld1_u16(scales.as_ptr()) });
        // SAFETY: the slices are blocks.
        let w = of_row.map(|block| unsafe { B::load(block.as_ptr()) });
        let (q, x_scales, _) = x.blocks(block);
        for (sums, (q, &x_scale)) in sums
            .iter_mut()
            .zip(q[start..].iter().zip(&x_scales[start..]))
        {
            // SAFETY: there are 32 integers.
            let q = unsafe { [vld1q_s8(q.as_ptr()), vld1q_s8(q[16..].as_ptr())] };
            let [a, b, c, d] = w.map(|w| dot(w, q));
            let dots = vcvtq_f32_s32(vpaddq_s32(vpaddq_s32(a, b), vpaddq_s32(c, d)));
            let product = vmulq_f32(dots, vmulq_n_f32(w_scales, x_scale));
            // SAFETY: there are four sums.
            unsafe {
                vst1q_f32(
                    sums.as_mut_ptr(),
                    vaddq_f32(vld1q_f32(sums.as_ptr()), product),
                )
            };
        }
    }
}
