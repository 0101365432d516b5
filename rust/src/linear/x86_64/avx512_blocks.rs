//! Blocks by AVX-512 VNNI: 16 rows at a time, one in each lane.
//!
//! The weights of a block are transposed in registers: register i of eight has weights 4 i to 4 i + 3 of
//! each row. Then `vpdpbusd` adds, in every lane, the products of these four and of four activations,
//! which are the same for all rows. It wants unsigned weights: they have an offset, whose share
//! of the product is known from the sum of the activations.

use std::arch::x86_64::*;

use super::MIN_AHEAD;
use crate::linear::Activations;
use crate::linear::blocks::{Q4_0_BYTES, Q8_0_BYTES};

/// The rows that are computed together.
const ROWS: usize = 16;

/// A format of blocks.
pub trait Blocks {
    /// The bytes of a block.
    const BYTES: usize;
    /// The binary logarithm of the offset of unsigned weights.
    const OFFSET_BITS: u32;

    /// Load a block of each of 16 rows, which are `stride` bytes apart: as unsigned weights, transposed.
    ///
    /// # Safety
    /// The processor must have the instructions of `Level::Avx512`, and `first` be a block with 15 more
    /// in its column.
    unsafe fn load(first: *const u8, stride: usize) -> [__m512i; 8];
}

pub struct Q8_0;
pub struct Q4_0;

impl Blocks for Q8_0 {
    const BYTES: usize = Q8_0_BYTES;
    const OFFSET_BITS: u32 = 7;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    unsafe fn load(first: *const u8, stride: usize) -> [__m512i; 8] {
        let half = |row: usize| {
            // SAFETY: the block of this row has 32 bytes after its scale.
            unsafe { _mm256_loadu_si256(first.add(row * stride + 2).cast()) }
        };
        let two = |row| _mm512_inserti64x4::<1>(_mm512_castsi256_si512(half(row)), half(row + 4));
        // Lanes of 128 bits: bytes 0 to 15 of row i, 16 to 31 of row i, then of row i + 4.
        let a = transpose(two(0), two(1), two(2), two(3));
        let b = transpose(two(8), two(9), two(10), two(11));
        let sign = _mm512_set1_epi8(-128);
        let low =
            |i: usize| _mm512_xor_si512(_mm512_shuffle_i64x2::<0b10_00_10_00>(a[i], b[i]), sign);
        let high =
            |i: usize| _mm512_xor_si512(_mm512_shuffle_i64x2::<0b11_01_11_01>(a[i], b[i]), sign);
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
}

impl Blocks for Q4_0 {
    const BYTES: usize = Q4_0_BYTES;
    const OFFSET_BITS: u32 = 3;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    unsafe fn load(first: *const u8, stride: usize) -> [__m512i; 8] {
        let quarter = |row: usize| {
            // SAFETY: the block of this row has 16 bytes after its scale.
            unsafe { _mm_loadu_si128(first.add(row * stride + 2).cast()) }
        };
        let four = |row| {
            let v = _mm512_castsi128_si512(quarter(row));
            let v = _mm512_inserti32x4::<1>(v, quarter(row + 4));
            let v = _mm512_inserti32x4::<2>(v, quarter(row + 8));
            _mm512_inserti32x4::<3>(v, quarter(row + 12))
        };
        let v = transpose(four(0), four(1), four(2), four(3));
        let half = _mm512_set1_epi8(15);
        let low = |i: usize| _mm512_and_si512(v[i], half);
        let high = |i: usize| _mm512_and_si512(_mm512_srli_epi16::<4>(v[i]), half);
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
}

/// Transpose the four 4 x 4 matrices of 32-bit values that four registers hold in their lanes of 128 bits.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn transpose(a: __m512i, b: __m512i, c: __m512i, d: __m512i) -> [__m512i; 4] {
    let (ab, cd) = (_mm512_unpacklo_epi32(a, b), _mm512_unpacklo_epi32(c, d));
    let (ab_high, cd_high) = (_mm512_unpackhi_epi32(a, b), _mm512_unpackhi_epi32(c, d));
    [
        _mm512_unpacklo_epi64(ab, cd),
        _mm512_unpackhi_epi64(ab, cd),
        _mm512_unpacklo_epi64(ab_high, cd_high),
        _mm512_unpackhi_epi64(ab_high, cd_high),
    ]
}

/// Return the scales of a block of each of 16 rows.
///
/// # Safety
/// The processor must have the instructions of `Level::Avx512`, and `first` be a block with 15 more
/// in its column.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn scales(first: *const u8, stride: usize) -> __m512 {
    let mut bits = [0u16; ROWS];
    for (row, bits) in bits.iter_mut().enumerate() {
        // SAFETY: the block of this row begins with its scale.
        *bits = unsafe { first.add(row * stride).cast::<u16>().read_unaligned() };
    }
    // SAFETY: the array has 32 bytes.
    _mm512_cvtph_ps(unsafe { _mm256_loadu_si256(bits.as_ptr().cast()) })
}

/// Compute the products of 16 rows and as many vectors, from number `start` on, as there are `sums`.
///
/// # Safety
/// The processor must have the instructions of `Level::Avx512`, and `bytes` 16 rows of `stride` bytes.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub unsafe fn tile<B: Blocks>(
    bytes: &[u8],
    stride: usize,
    x: &Activations,
    start: usize,
    sums: &mut [[f32; ROWS]],
) {
    sums.fill([0.0; ROWS]);
    let ahead = (ROWS * stride).max(MIN_AHEAD);
    for block in 0..stride / B::BYTES {
        let first = bytes[block * B::BYTES..].as_ptr();
        // The next tile lies behind this one. Prefetching it in the order of addresses reads memory
        // at full speed, which 16 rows at a time would not.
        let next = bytes.as_ptr().wrapping_add(ahead + ROWS * block * B::BYTES);
        for line in 0..(ROWS * B::BYTES).div_ceil(64) {
            _mm_prefetch::<_MM_HINT_T1>(next.wrapping_add(64 * line).cast());
        }
        // SAFETY: the block is in the first row of 16.
        let (w, w_scales) = unsafe { (B::load(first, stride), scales(first, stride)) };
        let (q, x_scales, minus_sums) = x.blocks(block);
        let of_x = q[start..]
            .iter()
            .zip(&x_scales[start..])
            .zip(&minus_sums[start..]);
        for (sums, ((q, &x_scale), &minus_sum)) in sums.iter_mut().zip(of_x) {
            let four = |i: usize| {
                // SAFETY: the 32 bytes of q have eight times four.
                _mm512_set1_epi32(unsafe { q.as_ptr().cast::<i32>().add(i).read_unaligned() })
            };
            // Two sums, because each addition waits for the last one.
            let mut a = _mm512_set1_epi32(minus_sum << B::OFFSET_BITS);
            let mut b = _mm512_setzero_si512();
            for i in 0..4 {
                a = _mm512_dpbusd_epi32(a, w[i], four(i));
                b = _mm512_dpbusd_epi32(b, w[4 + i], four(4 + i));
            }
            let dot = _mm512_cvtepi32_ps(_mm512_add_epi32(a, b));
            let product = _mm512_mul_ps(dot, _mm512_mul_ps(w_scales, _mm512_set1_ps(x_scale)));
            // SAFETY: there are 16 sums.
            unsafe {
                let all = _mm512_add_ps(_mm512_loadu_ps(sums.as_ptr()), product);
                _mm512_storeu_ps(sums.as_mut_ptr(), all);
            }
        }
    }
}
