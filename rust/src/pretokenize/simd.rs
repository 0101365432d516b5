//! The ASCII classes of 64 bytes at a time, as bit masks, by SIMD instructions.

/// Bit i of each mask tells whether byte i is in the class.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct AsciiMasks {
    /// A to Z or a to z.
    pub letter: u64,
    /// 0 to 9.
    pub number: u64,
    /// The six ASCII characters in `\s`: tab, line feed, vertical tab, form feed, carriage return and
    /// blank.
    pub space: u64,
    /// A blank, U+0020.
    pub blank: u64,
    /// An apostrophe, U+0027.
    pub apostrophe: u64,
    /// Above 127.
    pub non_ascii: u64,
}

/// The sets of instructions that can compute the masks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Level {
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    Portable,
}

impl Level {
    /// The fastest level that this processor has. The standard library caches what the processor has.
    #[inline]
    pub(super) fn best() -> Level {
        *Level::available().last().unwrap_or(&Level::Portable)
    }

    /// All levels that this processor has, slowest first.
    #[inline]
    pub(super) fn available() -> &'static [Level] {
        #[cfg(target_arch = "x86_64")]
        {
            let bits = is_x86_feature_detected!("bmi1")
                && is_x86_feature_detected!("bmi2")
                && is_x86_feature_detected!("lzcnt")
                && is_x86_feature_detected!("popcnt");
            if bits && is_x86_feature_detected!("avx2") {
                // Require AVX2 for AVX-512 too: a virtual machine may advertise AVX-512 alone.
                if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw") {
                    return &[Level::Portable, Level::Avx2, Level::Avx512];
                }
                return &[Level::Portable, Level::Avx2];
            }
        }
        &[Level::Portable]
    }
}

/// A way to compute [`AsciiMasks`].
pub(super) trait Simd {
    /// Compute the masks.
    ///
    /// # Safety
    /// The processor must have the instructions that the implementation uses.
    unsafe fn ascii_masks(bytes: &[u8; 64]) -> AsciiMasks;
}

/// Ordinary 64-bit arithmetic, 8 bytes at a time.
pub(super) struct Portable;

impl Simd for Portable {
    #[inline(always)]
    unsafe fn ascii_masks(bytes: &[u8; 64]) -> AsciiMasks {
        let mut masks = AsciiMasks::default();
        for (i, eight) in bytes.chunks_exact(8).enumerate() {
            // One byte of flags for each byte of text.
            let flags = eight.iter().rev().fold(0u64, |flags, &byte| {
                flags << 8 | u64::from(FLAGS[usize::from(byte)])
            });
            // Gather bit k of each of the 8 bytes into 8 bits: the product moves the bit of byte j to bit
            // 56 + j, and no two terms overlap.
            let gather = |k: u32| {
                let bits = flags >> k & 0x0101_0101_0101_0101;
                (bits.wrapping_mul(0x0102_0408_1020_4080) >> 56) << (8 * i)
            };
            masks.letter |= gather(0);
            masks.number |= gather(1);
            masks.space |= gather(2);
            masks.blank |= gather(3);
            masks.apostrophe |= gather(4);
            masks.non_ascii |= gather(5);
        }
        masks
    }
}

/// For each byte, the classes it is in, as bits in the order of the fields of [`AsciiMasks`].
static FLAGS: [u8; 256] = {
    let mut flags = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        flags[byte] = match byte as u8 {
            b'A'..=b'Z' | b'a'..=b'z' => 1,
            b'0'..=b'9' => 2,
            b'\t'..=b'\r' => 4,
            b' ' => 4 | 8,
            b'\'' => 16,
            128.. => 32,
            _ => 0,
        };
        byte += 1;
    }
    flags
};

#[cfg(target_arch = "x86_64")]
pub(super) use x86::{Avx2, Avx512};

#[cfg(target_arch = "x86_64")]
mod x86 {
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
            let blank = _mm512_cmpeq_epi8_mask(v, all(b' '));
            AsciiMasks {
                letter: in_range(_mm512_or_si512(v, all(0x20)), b'a', b'z'),
                number: in_range(v, b'0', b'9'),
                space: in_range(v, b'\t', b'\r') | blank,
                blank,
                apostrophe: _mm512_cmpeq_epi8_mask(v, all(b'\'')),
                non_ascii: _mm512_movepi8_mask(v),
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
                    number: in_range(v, b'0', b'9'),
                    space: in_range(v, b'\t', b'\r') | blank,
                    blank,
                    apostrophe: equal(b'\''),
                    non_ascii: mask(v),
                }
            };
            let (low, high) = (half(0), half(32));
            AsciiMasks {
                letter: low.letter | high.letter,
                number: low.number | high.number,
                space: low.space | high.space,
                blank: low.blank | high.blank,
                apostrophe: low.apostrophe | high.apostrophe,
                non_ascii: low.non_ascii | high.non_ascii,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masks_of(level: Level, bytes: &[u8; 64]) -> AsciiMasks {
        match level {
            // SAFETY: the caller takes the level from `Level::available`.
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => unsafe { Avx512::ascii_masks(bytes) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => unsafe { Avx2::ascii_masks(bytes) },
            // SAFETY: every processor has ordinary arithmetic.
            Level::Portable => unsafe { Portable::ascii_masks(bytes) },
        }
    }

    #[test]
    fn every_level_classifies_every_byte_at_every_position() {
        for shift in 0..=255u8 {
            let bytes: [u8; 64] =
                std::array::from_fn(|i| (i as u8).wrapping_mul(4).wrapping_add(shift));
            let mask = |is: fn(u8) -> bool| {
                (0..64)
                    .filter(|&i| is(bytes[i]))
                    .fold(0u64, |mask, i| mask | 1 << i)
            };
            let expected = AsciiMasks {
                letter: mask(|b| b.is_ascii_alphabetic()),
                number: mask(|b| b.is_ascii_digit()),
                space: mask(|b| b.is_ascii() && char::from(b).is_whitespace()),
                blank: mask(|b| b == b' '),
                apostrophe: mask(|b| b == b'\''),
                non_ascii: mask(|b| !b.is_ascii()),
            };
            for &level in Level::available() {
                assert_eq!(masks_of(level, &bytes), expected, "{level:?}, {bytes:?}");
            }
        }
    }
}
