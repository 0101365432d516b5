//! A cache of the ids of recent pre-tokens.
//!
//! Each thread has its own bounded table. Nearly every pre-token has at most 15 bytes and a few ids: it
//! is one 128-bit number, found in a bucket of one cache line. For any other pre-token, the bucket
//! points to its ids in the overflow, and to its bytes if it is longer.
//!
//! The time goes into waiting for memory, because the buckets are scattered over the table. So a look-up
//! has two steps: [`Table::prefetch`] fetches the bucket, and many pre-tokens later [`Table::get`]
//! reads it.

use memmap2::MmapMut;

use super::packed_ids::{Id, PackedIds};
use crate::error::Error;
use crate::util::memory::prefetch;
use crate::util::piece_key::{Key, is_long};

/// Two keys and their ids: one cache line. Key 0 marks a free slot.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct Bucket {
    keys: [Key; 2],
    ids: [PackedIds; 2],
}

/// The bucket in which a key is looked up first, by index.
#[derive(Clone, Copy, Default)]
pub(super) struct HomeBucket(usize);

/// A bounded table from keys to ids.
///
/// A key is looked up in its home bucket first. When a third key comes into a bucket, one of the other
/// two has to move to another bucket of the same group of [`GROUP`] buckets; it is promoted back to its
/// home when it is next looked up. So frequent keys are in their home buckets. When the group is full,
/// one of its keys is evicted.
pub(super) struct Cache {
    memory: MmapMut,
    log2_buckets: u32,
    n_keys: usize,
    /// Which key of a full group is evicted next.
    victim: usize,
    /// Ids that don't fit into a bucket. After the ids of a long pre-token: its length and its bytes.
    overflow: Vec<u32>,
    limits: Limits,
}

/// The limits to the size of a cache.
#[derive(Debug, Clone, Copy)]
struct Limits {
    /// The binary logarithms of the smallest and the largest number of buckets, at least [`GROUP`].
    log2_buckets: (u32, u32),
    /// The largest overflow, in numbers of 4 bytes.
    overflow: usize,
}

/// The table grows from half a megabyte to 32 MB, fourfold at a time, so that a process that encodes
/// little text takes little memory. The largest table holds nearly all pre-tokens of 106 MB of English.
const LIMITS: Limits = Limits {
    log2_buckets: (13, 19),
    overflow: 1 << 21,
};

/// The binary logarithm of the factor by which a table grows.
const LOG2_GROWTH: u32 = 2;

/// The size of the largest table in bytes.
pub(super) const LARGEST_BYTES: usize = size_of::<Bucket>() << LIMITS.log2_buckets.1;

/// The longest pre-token that is cached, in bytes.
pub(super) const MAX_CACHED_BYTES: usize = 256;

/// The number of buckets in which a key may be.
const GROUP: usize = 4;

impl Cache {
    /// Create an empty table of the smallest size. Fails if there is no memory for it.
    pub(super) fn new() -> Result<Self, Error> {
        Cache::with_buckets(LIMITS.log2_buckets.0, LIMITS)
            .map_err(|error| Error::Memory(format!("no memory for a cache of pre-tokens: {error}")))
    }

    fn with_buckets(log2_buckets: u32, limits: Limits) -> std::io::Result<Self> {
        let memory = MmapMut::map_anon(size_of::<Bucket>() << log2_buckets)?;
        // With small pages, most look-ups would also miss the processor's cache of page addresses. The
        // table works without huge pages too, so an error is ignored.
        #[cfg(target_os = "linux")]
        if log2_buckets > limits.log2_buckets.0 {
            let _ = memory.advise(memmap2::Advice::HugePage);
        }
        Ok(Cache {
            memory,
            log2_buckets,
            n_keys: 0,
            victim: 0,
            overflow: Vec::new(),
            limits,
        })
    }

    /// Whether the table is a third full and not yet of the largest size.
    #[inline(always)]
    pub(super) fn is_full(&self) -> bool {
        self.n_keys > (2usize << self.log2_buckets) / 3
            && self.log2_buckets < self.limits.log2_buckets.1
    }

    /// The size of the table in bytes.
    pub(super) fn n_bytes(&self) -> usize {
        size_of::<Bucket>() << self.log2_buckets
    }

    /// The size of the next larger table in bytes.
    pub(super) fn larger_bytes(&self) -> usize {
        self.n_bytes() << LOG2_GROWTH
    }

    /// Never grow, and keep an overflow of a size that suits the table.
    pub(super) fn stay_small(&mut self) {
        let smaller = self.limits.log2_buckets.1 - self.log2_buckets;
        self.limits.log2_buckets.1 = self.log2_buckets;
        self.limits.overflow = (self.limits.overflow >> smaller).max(1 << 15);
    }

    /// Whether [`Cache::stay_small`] was called.
    pub(super) fn is_small(&self) -> bool {
        self.limits.log2_buckets.1 < LIMITS.log2_buckets.1
    }

    /// Move to the next larger table. This invalidates all [`HomeBucket`]s.
    #[cold]
    pub(super) fn grow(&mut self) {
        // If there is no memory for a larger table, keep this one.
        let Ok(mut larger) = Cache::with_buckets(self.log2_buckets + LOG2_GROWTH, self.limits)
        else {
            return;
        };
        for bucket in self.table().buckets {
            for (key, ids) in bucket.keys.into_iter().zip(bucket.ids) {
                if key != 0 {
                    larger.put(key, larger.table().home(key), ids);
                }
            }
        }
        larger.overflow = std::mem::take(&mut self.overflow);
        *self = larger;
    }

    /// The table for look-ups.
    #[inline(always)]
    pub(super) fn table(&self) -> Table<'_> {
        Table {
            buckets: bytemuck::cast_slice(&self.memory),
            shift: 64 - self.log2_buckets,
        }
    }

    fn buckets_mut(&mut self) -> &mut [Bucket] {
        bytemuck::cast_slice_mut(&mut self.memory)
    }

    /// Look up a key in its home bucket, then in the rest of its group.
    pub(super) fn get(&mut self, key: Key, home: HomeBucket) -> Option<PackedIds> {
        let at_home = self.table().get(key, home);
        at_home.or_else(|| self.promote(key, home))
    }

    /// Look up a key that is not in its home bucket in the rest of its group, and move it home.
    fn promote(&mut self, key: Key, home: HomeBucket) -> Option<PackedIds> {
        let buckets = self.buckets_mut();
        if buckets[home.0].keys[1] == 0 {
            return None; // no key has ever had to leave this bucket
        }
        let (other, i) = other_slots(home).find(|&(b, i)| buckets[b].keys[i] == key)?;
        let ids = buckets[other].ids[i];
        let last = buckets[home.0].replace(1, key, ids);
        buckets[other].replace(i, last.0, last.1);
        Some(ids)
    }

    /// The ids in the overflow of a short pre-token, for which [`Id::unpack`] returned more than
    /// [`LANES`](super::packed_ids::LANES).
    pub(super) fn overflow<I: Id>(&self, packed: PackedIds) -> &[u32] {
        let (position, count) = I::unpack_overflow(packed);
        &self.overflow[position as usize..][..usize::from(count)]
    }

    /// The ids of a long pre-token, which are always in the overflow; None if they belong to another
    /// pre-token with the same `long_key`.
    pub(super) fn long_overflow<I: Id>(&self, packed: PackedIds, piece: &[u8]) -> Option<&[u32]> {
        let (position, count) = I::unpack_overflow(packed);
        let (ids, rest) = self.overflow[position as usize..].split_at(usize::from(count));
        let bytes: &[u8] = bytemuck::cast_slice(&rest[1..]);
        (&bytes[..rest[0] as usize] == piece).then_some(ids)
    }

    /// Insert the ids of `piece`, whose key is not in the table. There are at most as many ids as bytes.
    pub(super) fn insert<I: Id>(&mut self, key: Key, home: HomeBucket, ids: &[u32], piece: &[u8]) {
        if !is_long(key) && ids.len() <= I::MAX_IDS {
            self.put(key, home, I::pack(ids));
            return;
        }
        let position = self.overflow.len();
        if position >= self.limits.overflow {
            // Clear everything, since keys may point into the overflow.
            self.overflow.clear();
            self.buckets_mut().fill(bytemuck::Zeroable::zeroed());
            self.n_keys = 0;
            return;
        }
        self.overflow.extend_from_slice(ids);
        if is_long(key) {
            self.overflow.push(piece.len() as u32);
            self.overflow.extend(piece.chunks(4).map(|bytes| {
                let mut four = [0; 4];
                four[..bytes.len()].copy_from_slice(bytes);
                u32::from_ne_bytes(four)
            }));
        }
        self.put(
            key,
            home,
            I::pack_overflow(position as u32, ids.len() as u16),
        );
    }

    /// Put a key into its home bucket, and the key that it displaces into another one of the group.
    fn put(&mut self, key: Key, home: HomeBucket, ids: PackedIds) {
        let victim = self.victim;
        let buckets = self.buckets_mut();
        let bucket = &mut buckets[home.0];
        let i = usize::from(bucket.keys[0] != 0);
        let (last_key, last_ids) = bucket.replace(i, key, ids);
        if last_key == 0 {
            self.n_keys += 1;
            return;
        }
        let free = other_slots(home).find(|&(b, i)| buckets[b].keys[i] == 0);
        let evicted = || other_slots(home).nth(victim);
        if let Some((b, i)) = free.or_else(evicted) {
            buckets[b].replace(i, last_key, last_ids);
        }
        self.n_keys += usize::from(free.is_some());
        self.victim = (victim + 1) % (2 * (GROUP - 1));
    }
}

impl Bucket {
    /// Put a key into slot `i`, and return what was there.
    fn replace(&mut self, i: usize, key: Key, ids: PackedIds) -> (Key, PackedIds) {
        let old = (self.keys[i], self.ids[i]);
        (self.keys[i], self.ids[i]) = (key, ids);
        old
    }
}

/// A [`Cache`] as look-ups see it.
#[derive(Clone, Copy)]
pub(super) struct Table<'a> {
    buckets: &'a [Bucket],
    shift: u32,
}

impl Table<'_> {
    /// The bucket in which to look for `key` first.
    #[inline(always)]
    fn home(self, key: Key) -> HomeBucket {
        // The highest bits of a product depend on all bits of the factor. Someone who constructs keys
        // that collide achieves only that some of them are evicted and merged again.
        let mixed = key as u64 ^ ((key >> 64) as u64).rotate_left(25);
        HomeBucket((mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> self.shift) as usize)
    }

    /// Prefetch the home bucket of `key`, and return it.
    #[inline(always)]
    pub(super) fn prefetch(self, key: Key) -> HomeBucket {
        let home = self.home(key);
        prefetch(self.buckets, home.0);
        home
    }

    /// Return the ids of `key` if it is in its home bucket.
    #[inline(always)]
    pub(super) fn get(self, key: Key, home: HomeBucket) -> Option<PackedIds> {
        let bucket = self.buckets.get(home.0)?;
        // Which slot holds the key is unpredictable, so it is found without a branch.
        let difference = |other: Key| (other ^ key) as u64 | ((other ^ key) >> 64) as u64;
        let differences = bucket.keys.map(difference);
        let which = usize::from(differences[1] == 0);
        (differences[0].min(differences[1]) == 0).then(|| bucket.ids[which])
    }
}

/// The slots in the other buckets of a group, as (bucket, 0 or 1).
fn other_slots(home: HomeBucket) -> impl Iterator<Item = (usize, usize)> {
    (1..GROUP).flat_map(move |i| [(home.0 ^ i, 0), (home.0 ^ i, 1)])
}

#[cfg(test)]
mod tests;
