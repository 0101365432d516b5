//! What the pre-tokens seen lately were encoded to.
//!
//! A bounded table, one for each thread. A pre-token of at most 15 bytes and a few ids, which is almost
//! every one, is looked up as one 128-bit number in a bucket of one cache line. For others the bucket
//! says where their ids are, and their bytes if 15 are too few.
//!
//! What takes time is waiting for memory: the buckets lie all over the table. So a look-up has two steps.
//! [`Table::prefetch`] asks for the bucket, and many pre-tokens later [`Table::get`] reads it.

use memmap2::MmapMut;

use crate::error::Error;
use crate::util::key::{Key, is_long};
use crate::util::memory::prefetch;

/// Two keys and their ids: one cache line. 0 is no key.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct Bucket {
    keys: [Key; 2],
    ids: [Ids; 2],
}

/// The ids of a pre-token and how many they are, as [`Id`] puts them there.
pub type Ids = u128;

/// The numbers that ids are written as: `u16` if all ids of the vocabulary fit, else `u32`.
pub trait Id: bytemuck::Pod {
    /// The most ids that an entry has room for.
    const MAX_IDS: usize;

    fn from_u32(id: u32) -> Self;

    /// At most [`Id::MAX_IDS`] ids and their number.
    fn pack(ids: &[u32]) -> Ids;

    /// More ids, by the place where they are kept instead, and their number.
    fn pack_place(at: u32, number: u16) -> Ids;

    /// The ids, and how many of the array they are; more than [`LANES`] if they are kept elsewhere.
    /// All places are filled, whatever the number: so they are written without a branch.
    fn unpack(ids: Ids) -> ([Self; LANES], usize);

    /// What [`Id::pack_place`] was given.
    fn unpack_place(ids: Ids) -> (u32, u16);
}

/// In place of a number of ids: they are kept elsewhere.
const ELSEWHERE: u8 = u8::MAX;

/// What is written at a time, whatever the number of ids.
pub const LANES: usize = 8;

/// The ids as they are, and their number last.
impl Id for u16 {
    const MAX_IDS: usize = 7;

    #[inline(always)]
    fn from_u32(id: u32) -> Self {
        id as u16
    }

    fn pack(ids: &[u32]) -> Ids {
        let mut packed = [0; 8];
        for (place, &id) in packed.iter_mut().zip(ids) {
            *place = id as u16;
        }
        packed[7] = ids.len() as u16;
        bytemuck::cast(packed)
    }

    fn pack_place(at: u32, number: u16) -> Ids {
        let elsewhere = u16::from(ELSEWHERE);
        let place = [at as u16, (at >> 16) as u16];
        bytemuck::cast([place[0], place[1], number, 0, 0, 0, 0, elsewhere])
    }

    #[inline(always)]
    fn unpack(ids: Ids) -> ([Self; LANES], usize) {
        let lanes: [u16; LANES] = bytemuck::cast(ids);
        (lanes, usize::from(lanes[7]))
    }

    fn unpack_place(ids: Ids) -> (u32, u16) {
        let (lanes, _) = Self::unpack(ids);
        (u32::from(lanes[1]) << 16 | u32::from(lanes[0]), lanes[2])
    }
}

/// One number of 128 bits: from the lowest on, 24 bits for each id, and the highest 8 for their number.
impl Id for u32 {
    const MAX_IDS: usize = 5;

    #[inline(always)]
    fn from_u32(id: u32) -> Self {
        id
    }

    fn pack(ids: &[u32]) -> Ids {
        let number = (ids.len() as u128) << 120;
        let lanes = (0..).zip(ids).map(|(i, &id)| u128::from(id) << (24 * i));
        lanes.fold(number, |packed, lane| packed | lane)
    }

    fn pack_place(at: u32, number: u16) -> Ids {
        let elsewhere = u128::from(ELSEWHERE) << 120;
        elsewhere | u128::from(number) << 32 | u128::from(at)
    }

    #[inline(always)]
    fn unpack(ids: Ids) -> ([Self; LANES], usize) {
        let lane = |i: usize| (ids >> (24 * i)) as u32 & 0xff_ffff;
        let lanes = [lane(0), lane(1), lane(2), lane(3), lane(4), 0, 0, 0];
        (lanes, (ids >> 120) as usize)
    }

    fn unpack_place(ids: Ids) -> (u32, u16) {
        (ids as u32, (ids >> 32) as u16)
    }
}

/// The bucket in which a key is looked for first.
#[derive(Clone, Copy, Default)]
pub struct Place(usize);

/// A table from keys to ids.
///
/// A key's bucket is the place to look first. When a third key comes into it, one of the others has to
/// move to another bucket of the same [`GROUP`], and is moved back when it is asked for again: the
/// keys met often are those found at once. When the group is full, one of its keys is forgotten.
pub struct Cache {
    memory: MmapMut,
    log2_buckets: u32,
    n_keys: usize,
    /// Which key of a full group is forgotten next.
    victim: usize,
    /// Ids that have no room in a bucket. After those of a long pre-token, its bytes.
    elsewhere: Vec<u32>,
    limits: Limits,
}

/// How large a cache becomes.
#[derive(Debug, Clone, Copy)]
struct Limits {
    /// The smallest and the largest table, as binary logarithms of the number of buckets: at least a
    /// [`GROUP`] of them.
    log2_buckets: (u32, u32),
    /// The most ids and bytes kept outside the buckets, in places of 4 bytes.
    elsewhere: usize,
}

/// The table grows, eightfold at a time, from half a megabyte to 32: a process that encodes little text
/// shall not take much memory. On 106 MB of English text the largest holds nearly all pre-tokens met.
const LIMITS: Limits = Limits {
    log2_buckets: (13, 19),
    elsewhere: 1 << 21,
};

/// The longest pre-token that is remembered, in bytes.
pub const MAX_LONG: usize = 256;

/// Buckets in which a key may be.
const GROUP: usize = 4;

impl Cache {
    /// An empty table of the smallest size. Fails if there is no memory for it.
    pub fn new() -> Result<Self, Error> {
        Cache::with_buckets(LIMITS.log2_buckets.0, LIMITS)
            .map_err(|error| Error::Memory(format!("no memory for a cache of pre-tokens: {error}")))
    }

    fn with_buckets(log2_buckets: u32, limits: Limits) -> std::io::Result<Self> {
        let memory = MmapMut::map_anon(size_of::<Bucket>() << log2_buckets)?;
        // With small pages the processor would look up most buckets' addresses in memory, too. If the
        // system has no large pages, it works all the same.
        #[cfg(target_os = "linux")]
        if log2_buckets > limits.log2_buckets.0 {
            let _ = memory.advise(memmap2::Advice::HugePage);
        }
        Ok(Cache {
            memory,
            log2_buckets,
            n_keys: 0,
            victim: 0,
            elsewhere: Vec::new(),
            limits,
        })
    }

    /// Grow if the table is a third full and not of the largest size. Places from before are void.
    #[inline(always)]
    pub fn make_room(&mut self) {
        if self.n_keys > (2usize << self.log2_buckets) / 3
            && self.log2_buckets < self.limits.log2_buckets.1
        {
            self.grow();
        }
    }

    #[cold]
    fn grow(&mut self) {
        // Without memory for a larger table this one will do.
        let Ok(mut larger) = Cache::with_buckets(self.log2_buckets + 3, self.limits) else {
            return;
        };
        for bucket in self.table().buckets {
            for (key, ids) in bucket.keys.into_iter().zip(bucket.ids) {
                if key != 0 {
                    larger.put(key, larger.table().place(key), ids);
                }
            }
        }
        larger.elsewhere = std::mem::take(&mut self.elsewhere);
        *self = larger;
    }

    /// The table to look into.
    #[inline(always)]
    pub fn table(&self) -> Table<'_> {
        Table {
            buckets: bytemuck::cast_slice(&self.memory),
            shift: 64 - self.log2_buckets,
        }
    }

    fn buckets_mut(&mut self) -> &mut [Bucket] {
        bytemuck::cast_slice_mut(&mut self.memory)
    }

    /// The ids of a key that [`Table::get`] didn't find, if it is elsewhere in its group. It comes back.
    pub fn take_back(&mut self, key: Key, place: Place) -> Option<Ids> {
        let buckets = self.buckets_mut();
        if buckets[place.0].keys[1] == 0 {
            return None; // no key ever had to leave this bucket
        }
        let (other, i) = slots_elsewhere(place).find(|&(b, i)| buckets[b].keys[i] == key)?;
        let ids = buckets[other].ids[i];
        let last = buckets[place.0].replace(1, key, ids);
        buckets[other].replace(i, last.0, last.1);
        Some(ids)
    }

    /// Ids for which [`Id::unpack`] gave more than [`LANES`].
    pub fn elsewhere<I: Id>(&self, ids: Ids) -> &[u32] {
        let (at, number) = I::unpack_place(ids);
        &self.elsewhere[at as usize..][..usize::from(number)]
    }

    /// The same for a key of `long_key`; None if it was the key of another pre-token than `piece`.
    pub fn elsewhere_of_long<I: Id>(&self, ids: Ids, piece: &[u8]) -> Option<&[u32]> {
        let (at, number) = I::unpack_place(ids);
        let (ids, rest) = self.elsewhere[at as usize..].split_at(usize::from(number));
        let bytes: &[u8] = bytemuck::cast_slice(&rest[1..]);
        (&bytes[..rest[0] as usize] == piece).then_some(ids)
    }

    /// Remember the ids of `piece`, whose key is not in the table; at most as many as it has bytes.
    pub fn insert<I: Id>(&mut self, key: Key, place: Place, ids: &[u32], piece: &[u8]) {
        if !is_long(key) && ids.len() <= I::MAX_IDS {
            self.put(key, place, I::pack(ids));
            return;
        }
        let at = self.elsewhere.len();
        if at >= self.limits.elsewhere {
            // Begin anew with everything, since keys may refer to what is thrown away here.
            self.elsewhere.clear();
            self.buckets_mut().fill(bytemuck::Zeroable::zeroed());
            self.n_keys = 0;
            return;
        }
        self.elsewhere.extend_from_slice(ids);
        if is_long(key) {
            self.elsewhere.push(piece.len() as u32);
            self.elsewhere.extend(piece.chunks(4).map(|bytes| {
                let mut four = [0; 4];
                four[..bytes.len()].copy_from_slice(bytes);
                u32::from_ne_bytes(four)
            }));
        }
        self.put(key, place, I::pack_place(at as u32, ids.len() as u16));
    }

    fn put(&mut self, key: Key, place: Place, ids: Ids) {
        let victim = self.victim;
        let buckets = self.buckets_mut();
        let home = &mut buckets[place.0];
        let i = usize::from(home.keys[0] != 0);
        let (last_key, last_ids) = home.replace(i, key, ids);
        if last_key == 0 {
            self.n_keys += 1;
            return;
        }
        let free = slots_elsewhere(place).find(|&(b, i)| buckets[b].keys[i] == 0);
        let forgotten = || slots_elsewhere(place).nth(victim);
        if let Some((b, i)) = free.or_else(forgotten) {
            buckets[b].replace(i, last_key, last_ids);
        }
        self.n_keys += usize::from(free.is_some());
        self.victim = (victim + 1) % (2 * (GROUP - 1));
    }
}

impl Bucket {
    /// Put a key in place `i`; returns what was there.
    fn replace(&mut self, i: usize, key: Key, ids: Ids) -> (Key, Ids) {
        let old = (self.keys[i], self.ids[i]);
        (self.keys[i], self.ids[i]) = (key, ids);
        old
    }
}

/// A [`Cache`] as it is read.
#[derive(Clone, Copy)]
pub struct Table<'a> {
    buckets: &'a [Bucket],
    shift: u32,
}

impl Table<'_> {
    /// Where `key` is looked for first.
    #[inline(always)]
    fn place(self, key: Key) -> Place {
        // A product's highest bits depend on all bits of the factor. Whoever makes up keys that
        // collide gains that some are forgotten, and merged anew when they come again.
        let mixed = key as u64 ^ ((key >> 64) as u64).rotate_left(25);
        Place((mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> self.shift) as usize)
    }

    /// Where `key` is kept, and a hint to the processor to have it at hand soon.
    #[inline(always)]
    pub fn prefetch(self, key: Key) -> Place {
        let place = self.place(key);
        prefetch(self.buckets, place.0);
        place
    }

    /// The ids of `key`, if it is in the bucket where it is looked for first.
    #[inline(always)]
    pub fn get(self, key: Key, place: Place) -> Option<Ids> {
        let bucket = self.buckets.get(place.0)?;
        // Which of the two it is nobody can foresee, so it is found without a branch.
        let difference = |other: Key| (other ^ key) as u64 | ((other ^ key) >> 64) as u64;
        let differences = bucket.keys.map(difference);
        let which = usize::from(differences[1] == 0);
        (differences[0].min(differences[1]) == 0).then(|| bucket.ids[which])
    }
}

/// The slots in the other buckets of a group, each as a bucket and 0 or 1.
fn slots_elsewhere(place: Place) -> impl Iterator<Item = (usize, usize)> {
    (1..GROUP).flat_map(move |i| [(place.0 ^ i, 0), (place.0 ^ i, 1)])
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;
    use crate::util::key::{key_of, long_key};

    /// 4 buckets at first, 32 at most, and no room elsewhere for more than a few long pre-tokens.
    const TINY: Limits = Limits {
        log2_buckets: (2, 5),
        elsewhere: 400,
    };

    /// The ids that are remembered for a pre-token, if any are; looked up as the encoder does.
    fn look_up<I: Id>(cache: &mut Cache, piece: &[u8], key: Key, place: Place) -> Option<Vec<u8>> {
        let known = cache.table().get(key, place);
        let ids = known.or_else(|| cache.take_back(key, place))?;
        let (lanes, n) = I::unpack(ids);
        if let Some(ids) = lanes.get(..n) {
            return Some(bytemuck::cast_slice(ids).to_vec());
        }
        let ids = if is_long(key) {
            cache.elsewhere_of_long::<I>(ids, piece)?
        } else {
            cache.elsewhere::<I>(ids)
        };
        Some(as_bytes::<I>(ids))
    }

    fn as_bytes<I: Id>(ids: &[u32]) -> Vec<u8> {
        let ids: Vec<I> = ids.iter().map(|&id| I::from_u32(id)).collect();
        bytemuck::cast_slice(&ids).to_vec()
    }

    /// What the cache says is what it was told; what it was told last, it says; no key is there twice.
    fn assert_remembers<I: Id>(told: &[(Vec<u8>, Vec<u32>)], order: &[prop::sample::Index]) {
        let mut cache = Cache::with_buckets(TINY.log2_buckets.0, TINY).unwrap();
        let pool: HashMap<&[u8], Vec<u32>> = told
            .iter()
            .map(|(piece, ids)| (&piece[..], ids[..ids.len().min(piece.len())].to_vec()))
            .collect();
        for index in order {
            let piece = &index.get(told).0[..];
            let ids = &pool[piece];
            let key = key_of(piece).unwrap_or_else(|| long_key(piece));
            cache.make_room();
            let place = cache.table().prefetch(key);
            let found = look_up::<I>(&mut cache, piece, key, place);
            if found.is_none() {
                cache.insert::<I>(key, place, ids, piece);
            }
            let again = look_up::<I>(&mut cache, piece, key, place);
            let all_forgotten = cache.n_keys == 0;
            assert!(again == Some(as_bytes::<I>(ids)) || (found.is_none() && all_forgotten));
            assert!(found.is_none() || found == again);

            let keys = cache.table().buckets.iter().flat_map(|bucket| bucket.keys);
            let mut keys: Vec<Key> = keys.filter(|&key| key != 0).collect();
            assert_eq!(keys.len(), cache.n_keys);
            keys.sort_unstable();
            keys.dedup();
            assert_eq!(keys.len(), cache.n_keys);
            assert!(cache.elsewhere.len() < TINY.elsewhere + 2 * MAX_LONG);
        }
    }

    /// Pre-tokens and their ids below `n_vocab`: mostly short ones with few ids.
    fn told(n_vocab: u32) -> impl Strategy<Value = Vec<(Vec<u8>, Vec<u32>)>> {
        let piece = prop_oneof![
            6 => prop::collection::vec(any::<u8>(), 1..=4),
            3 => prop::collection::vec(0..3u8, 5..=17),
            1 => prop::collection::vec(any::<u8>(), 18..=MAX_LONG),
        ];
        let ids = prop_oneof![
            3 => prop::collection::vec(0..n_vocab, 1..=4),
            1 => prop::collection::vec(0..n_vocab, 1..=MAX_LONG),
        ];
        prop::collection::vec((piece, ids), 1..150)
    }

    fn order() -> impl Strategy<Value = Vec<prop::sample::Index>> {
        prop::collection::vec(any::<prop::sample::Index>(), 0..400)
    }

    proptest! {
        #[test]
        fn narrow_ids_are_remembered(told in told(1 << 16), order in order()) {
            assert_remembers::<u16>(&told, &order);
        }

        #[test]
        fn wide_ids_are_remembered(told in told(crate::vocab::MAX_ID + 1), order in order()) {
            assert_remembers::<u32>(&told, &order);
        }
    }

    #[test]
    fn it_grows_to_its_limit() {
        let mut cache = Cache::with_buckets(TINY.log2_buckets.0, TINY).unwrap();
        for i in 0..1000u32 {
            cache.make_room();
            let key = key_of(&i.to_le_bytes()).unwrap();
            let place = cache.table().prefetch(key);
            cache.insert::<u16>(key, place, &[i], &i.to_le_bytes());
        }
        assert_eq!(cache.table().buckets.len(), 32);
        assert!(cache.n_keys > 48, "{}", cache.n_keys); // of 64 places
    }
}
