//! The classes of 64 bytes by AVX-512 and AVX2.

use std::arch::x86_64::*;

use super::{AsciiMasks, Simd};

/// AVX-512 F and BW: 64 bytes in one register, comparisons that give masks.
pub struct Avx512;

impl Simd for Avx512 {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn ascii_masks(bytes: &[u8; 64]) -> AsciiMasks {
        // SAFETY: this reads the 64 bytes of the array, and needs no alignment.
        let v = unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) };
        let all = |byte: u8| _mm512_set1_epi8(byte as i8);
        // x is in first ..= last if x - first, with wrap-around, is at most last - first.
        let in_range = |v, first: u8, last: u8| {
            _mm512_cmple_epu8_mask(_mm512_sub_epi8(v, all(first)), all(last - first))
        };
        let equal = |byte: u8| _mm512_cmpeq_epi8_mask(v, all(byte));
        let blank = equal(b' ');
        AsciiMasks {
            letter: in_range(_mm512_or_si512(v, all(0x20)), b'a', b'z'),
            upper: in_range(v, b'A', b'Z'),
            number: in_range(v, b'0', b'9'),
            space: in_range(v, b'\t', b'\r') | blank,
            blank,
            newline: equal(b'\n') | equal(b'\r'),
            apostrophe: equal(b'\''),
            slash: equal(b'/'),
            non_ascii: _mm512_movepi8_mask(v),
            // As signed bytes, these are the smallest.
            continuation: _mm512_cmplt_epi8_mask(v, all(192)),
            control: _mm512_cmplt_epu8_mask(v, all(b' ')) | equal(127),
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn with_flag(bytes: &[u8; 64], flag: u8) -> u64 {
        // SAFETY: this reads the 64 bytes of the array, and needs no alignment.
        let v = unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) };
        _mm512_test_epi8_mask(v, _mm512_set1_epi8(flag as i8))
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn write_positions(mask: u64, at: usize, places: &mut [usize; 64]) {
        let mut positions = _mm512_add_epi64(
            _mm512_set1_epi64(at as i64),
            _mm512_setr_epi64(0, 1, 2, 3, 4, 5, 6, 7),
        );
        let mut n = 0;
        for eight in mask.to_le_bytes() {
            // SAFETY: n is at most the number of lower bits, which is at most 56, so this writes within
            // the array, and needs no alignment.
            unsafe {
                let these = _mm512_maskz_compress_epi64(eight, positions);
                _mm512_storeu_si512(places.as_mut_ptr().add(n).cast(), these);
            }
            n += eight.count_ones() as usize;
            positions = _mm512_add_epi64(positions, _mm512_set1_epi64(8));
        }
    }
}

/// AVX2: two registers of 32 bytes.
pub struct Avx2;

impl Simd for Avx2 {
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn ascii_masks(bytes: &[u8; 64]) -> AsciiMasks {
        let half = |i: usize| {
            // SAFETY: i is 0 or 32, so this reads 32 bytes of the array, and needs no alignment.
            let v: __m256i = unsafe { _mm256_loadu_si256(bytes.as_ptr().add(i).cast()) };
            let all = |byte: u8| _mm256_set1_epi8(byte as i8);
            let mask = |v| u64::from(_mm256_movemask_epi8(v) as u32) << i;
            let equal = |byte| mask(_mm256_cmpeq_epi8(v, all(byte)));
            // AVX2 compares signed bytes only. Unsigned y is at most n if min(y, n) is y.
            let in_range = |v, first: u8, last: u8| {
                let y = _mm256_sub_epi8(v, all(first));
                mask(_mm256_cmpeq_epi8(_mm256_min_epu8(y, all(last - first)), y))
            };
            let blank = equal(b' ');
            AsciiMasks {
                letter: in_range(_mm256_or_si256(v, all(0x20)), b'a', b'z'),
                upper: in_range(v, b'A', b'Z'),
                number: in_range(v, b'0', b'9'),
                space: in_range(v, b'\t', b'\r') | blank,
                blank,
                newline: equal(b'\n') | equal(b'\r'),
                apostrophe: equal(b'\''),
                slash: equal(b'/'),
                non_ascii: mask(v),
                continuation: mask(_mm256_cmpgt_epi8(all(192), v)),
                control: in_range(v, 0, 31) | equal(127),
            }
        };
        let (low, high) = (half(0), half(32));
        AsciiMasks {
            letter: low.letter | high.letter,
            upper: low.upper | high.upper,
            number: low.number | high.number,
            space: low.space | high.space,
            blank: low.blank | high.blank,
            newline: low.newline | high.newline,
            apostrophe: low.apostrophe | high.apostrophe,
            slash: low.slash | high.slash,
            non_ascii: low.non_ascii | high.non_ascii,
            continuation: low.continuation | high.continuation,
            control: low.control | high.control,
        }
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn with_flag(bytes: &[u8; 64], flag: u8) -> u64 {
        let half = |i: usize| {
            // SAFETY: i is 0 or 32, so this reads 32 bytes of the array, and needs no alignment.
            let v: __m256i = unsafe { _mm256_loadu_si256(bytes.as_ptr().add(i).cast()) };
            let without = _mm256_and_si256(v, _mm256_set1_epi8(flag as i8));
            let without = _mm256_cmpeq_epi8(without, _mm256_setzero_si256());
            u64::from(!_mm256_movemask_epi8(without) as u32) << i
        };
        half(0) | half(32)
    }
}
