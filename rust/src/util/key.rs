//! Short pre-tokens as 128-bit numbers: what the encoder's cache and the trainer's counts look up.
//!
//! 99% of the pre-tokens of English text have at most 15 bytes. As one number each is loaded, compared
//! and hashed in a few instructions, without following a pointer.

/// The longest pre-token that has a key, in bytes.
pub const MAX_SHORT: usize = 15;

/// Up to [`MAX_SHORT`] bytes: the bytes from the lowest on, zeros, and the length in the highest.
/// Different pre-tokens have different keys, and none is 0, because none is empty.
pub type Key = u128;

/// The key of `text[start..end]`, which isn't empty; if it has no key, a number that is none.
#[inline(always)]
pub fn key_at(text: &[u8], start: usize, end: usize) -> Key {
    let length = (end - start).min(MAX_SHORT + 1);
    let sixteen = if text.len() >= 16 && start <= text.len() - 16 {
        // SAFETY: at least 16 bytes follow `start`, and an array of bytes has no alignment.
        u128::from_le_bytes(unsafe { text.as_ptr().add(start).cast::<[u8; 16]>().read() })
    } else {
        near_the_end(&text[start..end])
    };
    sixteen & LOW_BYTES[length] | (length as u128) << 120
}

/// In place of a key for a pre-token that is too long for one: no other has the same, as a rule.
#[cold]
pub fn long_key(piece: &[u8]) -> Key {
    let chunks = piece
        .chunks(MAX_SHORT)
        .map(|chunk| key_at(chunk, 0, chunk.len()));
    let mixed = chunks.fold(0, |mixed, key| hash(key ^ Key::from(mixed)));
    Key::from(mixed) | ((MAX_SHORT + 1) as u128) << 120
}

/// Whether it is one of [`long_key`].
#[inline(always)]
pub fn is_long(key: Key) -> bool {
    key >> 120 > MAX_SHORT as u128
}

#[cold]
fn near_the_end(piece: &[u8]) -> u128 {
    let mut bytes = [0; 16];
    let length = piece.len().min(MAX_SHORT);
    bytes[..length].copy_from_slice(&piece[..length]);
    u128::from_le_bytes(bytes)
}

/// The key of all of `piece`; None if it has none.
#[inline]
pub fn key_of(piece: &[u8]) -> Option<Key> {
    let short = !piece.is_empty() && piece.len() <= MAX_SHORT;
    short.then(|| key_at(piece, 0, piece.len()))
}

/// The bytes that `key` was made of, and how many.
pub fn key_bytes(key: Key) -> ([u8; 16], usize) {
    (key.to_le_bytes(), (key >> 120) as usize)
}

/// `LOW_BYTES[n]` has the lowest n bytes set, but never the highest one, where the length goes.
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

/// A hash of which the highest bits are best.
///
/// A product of 64 by 64 bits, folded: every bit of the key reaches them. It is not proof against
/// keys chosen to collide. Where that matters, collisions must cost no more than not finding a key.
#[inline(always)]
pub fn hash(key: Key) -> u64 {
    let low = key as u64 ^ 0x9e37_79b9_7f4a_7c15;
    let high = (key >> 64) as u64 ^ 0xd1b5_4a32_d192_ed03;
    let product = u128::from(low) * u128::from(high);
    (product as u64 ^ (product >> 64) as u64).wrapping_mul(0xff51_afd7_ed55_8ccd)
}
