//! Short pre-tokens as 128-bit numbers: the keys of the encoder's cache and of the trainer's counts.
//!
//! 99% of the pre-tokens of English text have at most 15 bytes. As one number, each of them is loaded,
//! compared and hashed in a few instructions, without following a pointer.

/// The longest pre-token that has a key, in bytes.
pub const MAX_SHORT: usize = 15;

/// A pre-token of 1 to [`MAX_SHORT`] bytes as a number: its bytes from the lowest on, then zeros, and
/// its length in the highest byte.
///
/// Different pre-tokens have different keys. No key is 0, because no pre-token is empty.
pub type Key = u128;

/// Return the key of `text[start..end]`, which must not be empty. If those bytes are too long for a
/// key, the result equals no key.
#[inline(always)]
pub fn key_at(text: &[u8], start: usize, end: usize) -> Key {
    let length = (end - start).min(MAX_SHORT + 1);
    let sixteen = if text.len() >= 16 && start <= text.len() - 16 {
        // SAFETY: at least 16 bytes follow `start`, and a byte array needs no alignment.
        u128::from_le_bytes(unsafe { text.as_ptr().add(start).cast::<[u8; 16]>().read() })
    } else {
        load_near_end(&text[start..end])
    };
    sixteen & LOW_BYTES[length] | (length as u128) << 120
}

/// Return a hash in the shape of a key for a pre-token that is too long for a key. Two pre-tokens may
/// share it, though they hardly ever do.
#[cold]
pub fn long_key(piece: &[u8]) -> Key {
    let chunks = piece
        .chunks(MAX_SHORT)
        .map(|chunk| key_at(chunk, 0, chunk.len()));
    let mixed = chunks.fold(0, |mixed, key| hash(key ^ Key::from(mixed)));
    Key::from(mixed) | ((MAX_SHORT + 1) as u128) << 120
}

/// Whether `key` comes from [`long_key`].
#[inline(always)]
pub fn is_long(key: Key) -> bool {
    key >> 120 > MAX_SHORT as u128
}

#[cold]
fn load_near_end(piece: &[u8]) -> u128 {
    let mut bytes = [0; 16];
    let length = piece.len().min(MAX_SHORT);
    bytes[..length].copy_from_slice(&piece[..length]);
    u128::from_le_bytes(bytes)
}

/// Return the key of `piece`, or None if it is empty or too long.
#[inline]
pub fn key_of(piece: &[u8]) -> Option<Key> {
    let short = !piece.is_empty() && piece.len() <= MAX_SHORT;
    short.then(|| key_at(piece, 0, piece.len()))
}

/// Return the bytes that `key` was made of, and how many they are.
pub fn key_bytes(key: Key) -> ([u8; 16], usize) {
    (key.to_le_bytes(), (key >> 120) as usize)
}

/// `LOW_BYTES[n]` has the lowest n bytes set, except for the highest byte, which holds the length.
static LOW_BYTES: [u128; MAX_SHORT + 2] = {
    let mut masks = [0; MAX_SHORT + 2];
    let mut n = 1;
    while n <= MAX_SHORT {
        masks[n] = masks[n - 1] << 8 | 0xff;
        n += 1;
    }
    masks[n] = masks[n - 1];
    masks
};

/// Hash a key. The highest bits are the best ones.
///
/// This is a folded product of 64 by 64 bits, so every bit of the key affects the highest bits of the
/// result. It does not resist keys chosen to collide: use it only where a collision costs no more than
/// a failed look-up, or mix in a secret seed.
#[inline(always)]
pub fn hash(key: Key) -> u64 {
    let low = key as u64 ^ 0x9e37_79b9_7f4a_7c15;
    let high = (key >> 64) as u64 ^ 0xd1b5_4a32_d192_ed03;
    let product = u128::from(low) * u128::from(high);
    (product as u64 ^ (product >> 64) as u64).wrapping_mul(0xff51_afd7_ed55_8ccd)
}
