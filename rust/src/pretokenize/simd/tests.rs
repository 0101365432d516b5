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

fn with_flag(level: Level, bytes: &[u8; 64], flag: u8) -> u64 {
    match level {
        // SAFETY: the caller takes the level from `Level::available`.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { Avx512::with_flag(bytes, flag) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { Avx2::with_flag(bytes, flag) },
        // SAFETY: every processor has ordinary arithmetic.
        Level::Portable => unsafe { Portable::with_flag(bytes, flag) },
    }
}

fn positions(level: Level, mask: u64) -> [usize; 64] {
    let mut places = [0; 64];
    match level {
        // SAFETY: the caller takes the level from `Level::available`.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { Avx512::write_positions(mask, 1000, &mut places) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { Avx2::write_positions(mask, 1000, &mut places) },
        // SAFETY: every processor has ordinary arithmetic.
        Level::Portable => unsafe { Portable::write_positions(mask, 1000, &mut places) },
    }
    places
}

#[test]
fn every_level_writes_the_positions_of_bits() {
    for i in 0..=64 {
        for mask in [
            u64::MAX >> (64 - i).min(63),
            1 << (i % 64),
            0x8421_f00f_1248_ffff >> (i % 64),
        ] {
            let expected: Vec<_> = (0..64)
                .filter(|at| mask >> at & 1 == 1)
                .map(|at| 1000 + at)
                .collect();
            for &level in Level::available() {
                let places = positions(level, mask);
                assert_eq!(places[..expected.len()], expected, "{level:?}, {mask:x}");
            }
        }
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
            upper: mask(|b| b.is_ascii_uppercase()),
            number: mask(|b| b.is_ascii_digit()),
            space: mask(|b| b.is_ascii() && char::from(b).is_whitespace()),
            blank: mask(|b| b == b' '),
            newline: mask(|b| b == b'\n' || b == b'\r'),
            apostrophe: mask(|b| b == b'\''),
            slash: mask(|b| b == b'/'),
            non_ascii: mask(|b| !b.is_ascii()),
            continuation: mask(|b| b & 0xc0 == 0x80),
            control: mask(|b| b.is_ascii_control()),
        };
        for &level in Level::available() {
            assert_eq!(masks_of(level, &bytes), expected, "{level:?}, {bytes:?}");
            assert_eq!(
                with_flag(level, &bytes, 0x20),
                mask(|b| b & 0x20 != 0),
                "{level:?}, {bytes:?}"
            );
        }
    }
}
