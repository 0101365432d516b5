//! The ASCII classes of 64 bytes at a time, as bit masks, by SIMD instructions.

/// Bit i of each mask tells whether byte i is in the class.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct AsciiMasks {
    /// A to Z or a to z.
    pub letter: u64,
    /// A to Z.
    pub upper: u64,
    /// 0 to 9.
    pub number: u64,
    /// The six ASCII characters in `\s`: tab, line feed, vertical tab, form feed, carriage return and
    /// blank.
    pub space: u64,
    /// A blank, U+0020.
    pub blank: u64,
    /// A line feed or a carriage return.
    pub newline: u64,
    /// An apostrophe, U+0027.
    pub apostrophe: u64,
    /// A slash, U+002F.
    pub slash: u64,
    /// Above 127.
    pub non_ascii: u64,
    /// 128 to 191: all bytes of a character beyond ASCII but its first.
    pub continuation: u64,
    /// ASCII control characters, white space among them.
    pub control: u64,
}

/// The sets of instructions that can compute the masks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    Portable,
}

impl Level {
    /// The fastest level that this processor has. The standard library caches what the processor has.
    #[inline]
    pub(crate) fn best() -> Level {
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

    /// The mask of the bytes that have `flag`, which is a single bit.
    ///
    /// # Safety
    /// As for [`Simd::ascii_masks`].
    unsafe fn with_flag(bytes: &[u8; 64], flag: u8) -> u64;

    /// Write the position of each bit of `mask`, where bit 0 is at `at`. What follows them in `places`,
    /// which has room for 64, may be overwritten.
    ///
    /// # Safety
    /// As for [`Simd::ascii_masks`].
    #[inline(always)]
    unsafe fn write_positions(mut mask: u64, at: usize, places: &mut [usize; 64]) {
        // Most windows have at most 16 bits. Always writing 16 positions takes less time than a
        // mispredicted branch.
        for place in &mut places[..16] {
            *place = at + mask.trailing_zeros() as usize;
            mask &= mask.wrapping_sub(1);
        }
        for place in &mut places[16..] {
            if mask == 0 {
                break;
            }
            *place = at + mask.trailing_zeros() as usize;
            mask &= mask - 1;
        }
    }
}

/// Ordinary 64-bit arithmetic, 8 bytes at a time.
pub(super) struct Portable;

impl Simd for Portable {
    #[inline(always)]
    unsafe fn ascii_masks(bytes: &[u8; 64]) -> AsciiMasks {
        let mut masks = AsciiMasks::default();
        for (i, eight) in bytes.chunks_exact(8).enumerate() {
            // One byte of flags for each byte of text.
            let flags = |shift: u32| {
                eight.iter().rev().fold(0u64, |flags, &byte| {
                    flags << 8 | u64::from((FLAGS[usize::from(byte)] >> shift) as u8)
                })
            };
            let (low, high) = (flags(0), flags(8));
            let gather = |flags: u64, k: u32| gather_bit(flags, k) << (8 * i);
            masks.letter |= gather(low, 0);
            masks.upper |= gather(low, 1);
            masks.number |= gather(low, 2);
            masks.space |= gather(low, 3);
            masks.blank |= gather(low, 4);
            masks.newline |= gather(low, 5);
            masks.apostrophe |= gather(low, 6);
            masks.non_ascii |= gather(low, 7);
            masks.continuation |= gather(high, 0);
            masks.slash |= gather(high, 1);
            masks.control |= gather(high, 2);
        }
        masks
    }

    #[inline(always)]
    unsafe fn with_flag(bytes: &[u8; 64], flag: u8) -> u64 {
        let mut mask = 0;
        for (i, eight) in bytes.as_chunks::<8>().0.iter().enumerate() {
            mask |= gather_bit(u64::from_le_bytes(*eight), flag.trailing_zeros()) << (8 * i);
        }
        mask
    }
}

/// Gather bit k of each of the 8 bytes of `flags` into 8 bits: the product moves the bit of byte j to bit
/// 56 + j, and no two terms overlap.
#[inline(always)]
fn gather_bit(flags: u64, k: u32) -> u64 {
    let bits = flags >> k & 0x0101_0101_0101_0101;
    bits.wrapping_mul(0x0102_0408_1020_4080) >> 56
}

/// For each byte, the classes it is in, as bits in the order in which [`Portable`] reads them.
static FLAGS: [u16; 256] = {
    let mut flags = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        flags[byte] = match byte as u8 {
            b'A'..=b'Z' => 1 << 0 | 1 << 1,
            b'a'..=b'z' => 1 << 0,
            b'0'..=b'9' => 1 << 2,
            b'\r' | b'\n' => 1 << 3 | 1 << 5 | 1 << 10,
            b'\t'..=b'\x0c' => 1 << 3 | 1 << 10,
            b' ' => 1 << 3 | 1 << 4,
            b'\'' => 1 << 6,
            b'/' => 1 << 9,
            0..32 | 127 => 1 << 10,
            128..192 => 1 << 7 | 1 << 8,
            192.. => 1 << 7,
            _ => 0,
        };
        byte += 1;
    }
    flags
};

#[cfg(target_arch = "x86_64")]
pub(super) use x86::{Avx2, Avx512};

#[cfg(target_arch = "x86_64")]
mod x86;

#[cfg(test)]
mod tests;
