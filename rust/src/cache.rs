//! What the pre-tokens seen lately were encoded to.
//!
//! A bounded table, one for each thread. A pre-token of at most 15 bytes and 4 ids, which is almost
//! every one, is looked up as one 128-bit number in a bucket of one cache line. Others are kept aside.

use crate::key::{Key, hash};

/// Two keys and their values. 0 is no key.
type Bucket = [u128; 4];

/// Up to 4 ids of 32 bits, the first lowest; above the 24 bits of the first stands how many.
pub type Ids = u128;

/// The most ids that an entry holds.
pub const MAX_IDS: usize = 4;

/// The largest id that an entry holds.
pub const MAX_ID: u32 = (1 << 24) - 1;

/// Where in the table a key is kept.
#[derive(Clone, Copy, Default)]
pub struct Place(usize);

/// A table from keys to ids that forgets the older of two keys in a bucket for the third.
pub struct Cache {
    words: Vec<u128>,
    /// Where the first bucket begins, so that each is one cache line.
    offset: usize,
    shift: u32,
}

impl Cache {
    /// A table of `2^log2_entries` entries of 32 bytes. Memory is touched only as it is used.
    pub fn new(log2_entries: u32) -> Self {
        let log2_buckets = log2_entries - 1;
        // `vec!` of zeros asks the system for zeroed pages.
        let words = vec![0u128; (4 << log2_buckets) + 4];
        let offset = words.as_ptr().align_offset(64).min(4);
        Cache {
            words,
            offset,
            shift: 64 - log2_buckets,
        }
    }

    /// Where `key` is kept, and a hint to the processor to have it at hand soon.
    #[inline(always)]
    pub fn prefetch(&self, key: Key) -> Place {
        let at = self.offset + 4 * (hash(key) >> self.shift) as usize;
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            // SAFETY: a prefetch reads nothing and never faults, whatever the address.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(self.words.as_ptr().wrapping_add(at).cast()) };
        }
        Place(at)
    }

    /// The ids of `key`, if they are known.
    #[inline(always)]
    pub fn get(&self, key: Key, place: Place) -> Option<Ids> {
        let bucket: &Bucket = self.words[place.0..].first_chunk()?;
        // Which of the two it can only be is found without a branch.
        let i = usize::from(bucket[1] == key);
        (bucket[i] == key).then(|| bucket[2 + i])
    }

    /// Remember 1 to [`MAX_IDS`] ids, each at most [`MAX_ID`].
    pub fn insert(&mut self, key: Key, place: Place, ids: &[u32]) {
        let mut value = (ids.len() as u128) << 24;
        for (i, &id) in ids.iter().enumerate() {
            value |= u128::from(id) << (32 * i);
        }
        let bucket = &mut self.words[place.0..place.0 + 4];
        bucket[1] = bucket[0];
        bucket[3] = bucket[2];
        bucket[0] = key;
        bucket[2] = value;
    }
}

/// The ids in an entry and, of the array, how many of them count.
#[inline(always)]
pub fn unpack(ids: Ids) -> ([u32; MAX_IDS], usize) {
    let array = [
        ids as u32 & MAX_ID,
        (ids >> 32) as u32,
        (ids >> 64) as u32,
        (ids >> 96) as u32,
    ];
    (array, (ids as u32 >> 24) as usize)
}
