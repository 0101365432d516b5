//! Blocks by AVX2: 8 rows at a time, one in each lane, as in the code for AVX-512.
//!
//! In place of VNNI's instruction, `vpmaddubsw` adds two products of unsigned and signed bytes in 16 bits,
//! and `vpmaddwd` adds two of these in 32 bits.

use std::arch::x86_64::*;

use crate::linear::Activations;
use crate::linear::blocks::{BLOCK, Q4_0_BYTES, Q8_0_BYTES};

/// The rows that are computed together.
const ROWS: usize = 8;

/// A format of blocks.
pub trait Blocks {
    /// The bytes of a block.
    const BYTES: usize;

    /// Load a block of each of 8 rows, which are `stride` bytes apart: register i of eight has weights 4 i
    /// to 4 i + 3 of each row.
    ///
    /// # Safety
    /// The processor must have the instructions of `Level::Avx2`, and `first` be a block with 7 more in
    /// its column.
    unsafe fn load(first: *const u8, stride: usize) -> [__m256i; 8];

    /// Return the sums of the products of weights and activations in every row.
    ///
    /// # Safety
    /// The processor must have the instructions of `Level::Avx2`.
    unsafe fn dot(w: &[__m256i; 8], q: &[i8; BLOCK], minus_sum: i32) -> __m256i;
}

pub struct Q8_0;
pub struct Q4_0;

impl Blocks for Q8_0 {
    const BYTES: usize = Q8_0_BYTES;

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn load(first: *const u8, stride: usize) -> [__m256i; 8] {
        // SAFETY: each of the blocks has 32 bytes after its scale.
        let (low, high) = unsafe {
            (
                load_16(first.add(2), stride),
                load_16(first.add(18), stride),
            )
        };
        [
            low[0], low[1], low[2], low[3], high[0], high[1], high[2], high[3],
        ]
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn dot(w: &[__m256i; 8], q: &[i8; BLOCK], _minus_sum: i32) -> __m256i {
        let mut sum = _mm256_setzero_si256();
        for (i, &w) in w.iter().enumerate() {
            // |w| * (the sign of w) * q: at most 2 * 128 * 127 in 16 bits.
            let q = _mm256_sign_epi8(four(q, i), w);
            let products = _mm256_maddubs_epi16(_mm256_abs_epi8(w), q);
            sum = _mm256_add_epi32(sum, _mm256_madd_epi16(products, _mm256_set1_epi16(1)));
        }
        sum
    }
}

impl Blocks for Q4_0 {
    const BYTES: usize = Q4_0_BYTES;

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn load(first: *const u8, stride: usize) -> [__m256i; 8] {
        // SAFETY: each of the blocks has 16 bytes after its scale.
        let v = unsafe { load_16(first.add(2), stride) };
        let half = _mm256_set1_epi8(15);
        let low = |i: usize| _mm256_and_si256(v[i], half);
        let high = |i: usize| _mm256_and_si256(_mm256_srli_epi16::<4>(v[i]), half);
        [
            low(0),
            low(1),
            low(2),
            low(3),
            high(0),
            high(1),
            high(2),
            high(3),
        ]
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn dot(w: &[__m256i; 8], q: &[i8; BLOCK], minus_sum: i32) -> __m256i {
        let mut products = _mm256_setzero_si256();
        for (i, &w) in w.iter().enumerate() {
            // At most 8 * 2 * 15 * 127 in 16 bits.
            products = _mm256_add_epi16(products, _mm256_maddubs_epi16(w, four(q, i)));
        }
        // The weights are too large by 8.
        let sum = _mm256_madd_epi16(products, _mm256_set1_epi16(1));
        _mm256_add_epi32(sum, _mm256_set1_epi32(minus_sum * 8))
    }
}

/// Return activations 4 i to 4 i + 3 in every lane.
#[inline]
#[target_feature(enable = "avx2")]
fn four(q: &[i8; BLOCK], i: usize) -> __m256i {
    let four = [q[4 * i], q[4 * i + 1], q[4 * i + 2], q[4 * i + 3]];
    _mm256_set1_epi32(i32::from_ne_bytes(four.map(|q| q as u8)))
}

/// Load 16 bytes of each of 8 rows: register i of four has bytes 4 i to 4 i + 3 of each row.
///
/// # Safety
/// There must be 16 bytes at `first` and at the 7 next multiples of `stride` from there.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn load_16(first: *const u8, stride: usize) -> [__m256i; 4] {
    let row = |row: usize| {
        // SAFETY: the caller promises it.
        unsafe { _mm_loadu_si128(first.add(row * stride).cast()) }
    };
    let two = |i| _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(row(i)), row(i + 4));
    let (a, b, c, d) = (two(0), two(1), two(2), two(3));
    // Transpose the 4 x 4 matrices of 32-bit values in the lanes of 128 bits.
    let (ab, cd) = (_mm256_unpacklo_epi32(a, b), _mm256_unpacklo_epi32(c, d));
    let (ab_high, cd_high) = (_mm256_unpackhi_epi32(a, b), _mm256_unpackhi_epi32(c, d));
    [
        _mm256_unpacklo_epi64(ab, cd),
        _mm256_unpackhi_epi64(ab, cd),
        _mm256_unpacklo_epi64(ab_high, cd_high),
        _mm256_unpackhi_epi64(ab_high, cd_high),
    ]
}

/// Compute the products of 8 rows and as many vectors, from number `start` on, as there are `sums`.
///
/// # Safety
/// The processor must have the instructions of `Level::Avx2`, and `bytes` 8 rows of `stride` bytes.
#[target_feature(enable = "avx2,fma,f16c")]
pub unsafe fn tile<B: Blocks>(
    bytes: &[u8],
    stride: usize,
    x: &Activations,
    start: usize,
    sums: &mut [[f32; ROWS]],
) {
    sums.fill([0.0; ROWS]);
    for block in 0..stride / B::BYTES {
        let first = bytes[block * B::BYTES..].as_ptr();
        // The next tile lies behind this one: prefetch it in the order of addresses.
        let next = bytes
            .as_ptr()
            .wrapping_add(ROWS * (stride + block * B::BYTES));
        for line in 0..(ROWS * B::BYTES).div_ceil(64) {
            _mm_prefetch::<_MM_HINT_T1>(next.wrapping_add(64 * line).cast());
        }
        let mut scales = [0u16; ROWS];
        for (row, scale) in scales.iter_mut().enumerate() {
            // SAFETY: the block of this row begins with its scale.
            *scale = unsafe { first.add(row * stride).cast::<u16>().read_unaligned() };
        }
        // SAFETY: the array has 16 bytes, and the block is in the first row of 8.
        let (w_scales, w) = unsafe {
            let scales = _mm_loadu_si128(scales.as_ptr().cast());
            (_mm256_cvtph_ps(scales), B::load(first, stride))
        };
        let (q, x_scales, minus_sums) = x.blocks(block);
        let of_x = q[start..]
            .iter()
            .zip(&x_scales[start..])
            .zip(&minus_sums[start..]);
        for (sums, ((q, &x_scale), &minus_sum)) in sums.iter_mut().zip(of_x) {
            // SAFETY: the processor has the instructions.
            let dot = _mm256_cvtepi32_ps(unsafe { B::dot(&w, q, minus_sum) });
            let product = _mm256_mul_ps(dot, _mm256_mul_ps(w_scales, _mm256_set1_ps(x_scale)));
            // SAFETY: there are 8 sums.
            unsafe {
                let all = _mm256_add_ps(_mm256_loadu_ps(sums.as_ptr()), product);
                _mm256_storeu_ps(sums.as_mut_ptr(), all);
            }
        }
    }
}
