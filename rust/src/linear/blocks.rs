//! GGUF's blocks of quantized weights, and 16-bit floating-point numbers.

/// The weights in a block.
pub const BLOCK: usize = 32;
/// The bytes of a block of Q8_0: the scale, then 32 i8.
pub const Q8_0_BYTES: usize = 34;
/// The bytes of a block of Q4_0: the scale, then 32 halves of bytes.
pub const Q4_0_BYTES: usize = 18;
/// What Q4_0 adds to its weights so that they are not negative.
pub const Q4_0_OFFSET: i8 = 8;

/// The scale of a block.
#[inline]
pub fn scale(block: &[u8]) -> f32 {
    f16_to_f32(u16::from_le_bytes([block[0], block[1]]))
}

/// The integers of a block of Q8_0.
#[inline]
pub fn q8_0(block: &[u8]) -> [i8; BLOCK] {
    std::array::from_fn(|i| block[2 + i] as i8)
}

/// The integers of a block of Q4_0, from -8 to 7.
#[inline]
pub fn q4_0(block: &[u8]) -> [i8; BLOCK] {
    let mut q = [0; BLOCK];
    for i in 0..BLOCK / 2 {
        let byte = block[2 + i];
        q[i] = (byte & 15) as i8 - Q4_0_OFFSET;
        q[16 + i] = (byte >> 4) as i8 - Q4_0_OFFSET;
    }
    q
}

/// Convert bf16 to f32, exactly.
#[inline]
pub fn bf16_to_f32(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// Convert IEEE 754's binary16 to f32, exactly.
#[inline]
pub fn f16_to_f32(bits: u16) -> f32 {
    let sign = u32::from(bits & 0x8000) << 16;
    let magnitude = u32::from(bits & 0x7fff);
    let value = if magnitude >= 0x7c00 {
        // Infinity or NaN: the largest exponent of f32 too.
        f32::from_bits(0x7f80_0000 | magnitude << 13)
    } else {
        // The exponent's bias is 15 in f16 and 127 in f32. The product also normalizes subnormals.
        f32::from_bits(magnitude << 13) * f32::from_bits((127 + 127 - 15) << 23)
    };
    f32::from_bits(value.to_bits() | sign)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f16_equals_its_definition() {
        for bits in 0..=u16::MAX {
            let exponent = i32::from(bits >> 10 & 31);
            let fraction = f64::from(bits & 0x3ff) / 1024.0;
            let magnitude = match exponent {
                0 => fraction * f64::powi(2.0, -14),
                31 if fraction == 0.0 => f64::INFINITY,
                31 => f64::NAN,
                _ => (1.0 + fraction) * f64::powi(2.0, exponent - 15),
            };
            let expected = if bits >> 15 == 1 {
                -magnitude
            } else {
                magnitude
            };
            let value = f64::from(f16_to_f32(bits));
            let equal = value == expected || value.is_nan() && expected.is_nan();
            assert!(equal, "{bits:#x}: {value} for {expected}");
            assert_eq!(value.is_sign_negative(), bits >> 15 == 1);
        }
    }

    #[test]
    fn halves_of_bytes_are_weights_16_apart() {
        let mut block = [0x88; Q4_0_BYTES];
        block[..2].copy_from_slice(&0x3c00u16.to_le_bytes());
        block[2 + 3] = 0xf0;
        let mut expected = [0; BLOCK];
        expected[3] = -8;
        expected[16 + 3] = 7;
        assert_eq!((scale(&block), q4_0(&block)), (1.0, expected));
    }
}
