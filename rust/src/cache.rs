//! What the pre-tokens seen lately were encoded to.
//!
//! A bounded table, one for each thread. A pre-token of at most 15 bytes and a few ids, which is almost
//! every one, is looked up as one 128-bit number in a bucket of one cache line. Others are kept aside.

use crate::key::{Key, hash};
use crate::vocab::Vocab;

/// Two keys and their values. 0 is no key.
type Bucket = [u128; 4];

/// The ids of a pre-token in 128 bits, as [`Packing`] says.
pub type Ids = u128;

/// How ids and their number are put into 128 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    /// Up to 7 ids of 16 bits, the first lowest, and their number highest.
    Narrow,
    /// Up to 4 ids of 32 bits, the first lowest; above the 24 bits of the first stands how many.
    Wide,
}

/// What is written at a time, whatever the number of ids.
pub const LANES: usize = 8;

impl Packing {
    /// The one with room for most ids of a vocabulary.
    pub fn for_vocabulary(vocab: &Vocab) -> Self {
        if vocab.fits_16_bits() {
            Packing::Narrow
        } else {
            Packing::Wide
        }
    }

    /// The most ids that have room.
    pub fn max_ids(self) -> usize {
        match self {
            Packing::Narrow => 7,
            Packing::Wide => 4,
        }
    }

    fn pack(self, ids: &[u32]) -> Ids {
        let (bits, count_at) = match self {
            Packing::Narrow => (16, 112),
            Packing::Wide => (32, 24),
        };
        let lanes = (0..).zip(ids).map(|(i, &id)| u128::from(id) << (bits * i));
        lanes.sum::<u128>() | (ids.len() as u128) << count_at
    }

    /// The ids and, of the array, how many of them count.
    #[inline(always)]
    pub fn unpack(self, ids: Ids) -> ([u32; LANES], usize) {
        match self {
            Packing::Narrow => {
                let lanes = std::array::from_fn(|i| u32::from((ids >> (16 * i)) as u16));
                (lanes, (ids >> 112) as usize)
            }
            Packing::Wide => {
                let first = ids as u32;
                let lane = |i: u32| (ids >> (32 * i)) as u32;
                let lanes = [first & 0xff_ffff, lane(1), lane(2), lane(3), 0, 0, 0, 0];
                (lanes, (first >> 24) as usize)
            }
        }
    }
}

/// Where in the table a key is kept.
#[derive(Clone, Copy, Default)]
pub struct Place(usize);

/// A table from keys to ids. The third key in a bucket pushes the first into the bucket next door,
/// where it takes the place of another.
pub struct Cache {
    words: Vec<u128>,
    /// Where the first bucket begins, so that each is one cache line.
    offset: usize,
    shift: u32,
    packing: Packing,
}

impl Cache {
    /// A table of `2^log2_entries` entries of 32 bytes. Memory is touched only as it is used.
    pub fn new(log2_entries: u32, packing: Packing) -> Self {
        let log2_buckets = log2_entries - 1;
        // `vec!` of zeros asks the system for zeroed pages.
        let words = vec![0u128; (4 << log2_buckets) + 4];
        let offset = words.as_ptr().align_offset(64).min(4);
        Cache {
            words,
            offset,
            shift: 64 - log2_buckets,
            packing,
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

    /// The ids of a key that [`Cache::get`] didn't find, if it was pushed into the bucket next door.
    /// It comes back.
    pub fn take_back(&mut self, key: Key, place: Place) -> Option<Ids> {
        let next_door = self.next_door(place);
        let i = (0..2).find(|i| self.words[next_door + i] == key)?;
        let ids = self.words[next_door + 2 + i];
        let pushed = self.push_front(key, ids, place);
        (self.words[next_door + i], self.words[next_door + 2 + i]) = pushed;
        Some(ids)
    }

    /// Remember the ids of a key, at most [`Packing::max_ids`].
    pub fn insert(&mut self, key: Key, place: Place, ids: &[u32]) {
        let value = self.packing.pack(ids);
        let pushed = self.push_front(key, value, place);
        let next_door = self.next_door(place);
        if pushed.0 != 0 {
            (self.words[next_door + 1], self.words[next_door + 3]) = pushed;
        }
    }

    /// Put a key first into its bucket; returns the last one, which has to leave.
    fn push_front(&mut self, key: Key, ids: Ids, place: Place) -> (Key, Ids) {
        let bucket = &mut self.words[place.0..place.0 + 4];
        let pushed = (bucket[1], bucket[3]);
        (bucket[1], bucket[3]) = (bucket[0], bucket[2]);
        (bucket[0], bucket[2]) = (key, ids);
        pushed
    }

    fn next_door(&self, place: Place) -> usize {
        ((place.0 - self.offset) ^ 4) + self.offset
    }
}
