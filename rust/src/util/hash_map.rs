//! A hash map from the keys of short pre-tokens (`piece_key.rs`) to counts or ids.

use crate::util::memory::{large_vec, prefetch};
use crate::util::piece_key::{Key, hash};

/// A hash map with open addressing and linear probing, at most 5/8 full. Keys are never removed.
#[derive(Debug, Clone)]
pub struct KeyMap<V> {
    /// 0, which is not a key, marks a free slot.
    keys: Vec<Key>,
    values: Vec<V>,
    len: usize,
    /// Random for each map, so that nobody can construct keys that collide.
    seed: Key,
}

impl<V: Copy + Default> Default for KeyMap<V> {
    fn default() -> Self {
        KeyMap::with_capacity(0)
    }
}

impl<V: Copy + Default> KeyMap<V> {
    /// Create an empty map with room for `capacity` keys.
    pub fn with_capacity(capacity: usize) -> Self {
        let n_slots = (capacity * 8).div_ceil(5).next_power_of_two().max(64);
        KeyMap {
            keys: filled(n_slots, 0),
            values: filled(n_slots, V::default()),
            len: 0,
            seed: random_key(),
        }
    }

    /// The number of keys.
    pub fn len(&self) -> usize {
        self.len
    }

    /// The size of the map in memory, in bytes.
    pub fn n_bytes(&self) -> usize {
        self.keys.len() * (size_of::<Key>() + size_of::<V>())
    }

    /// The value of `key`, if it is in the map.
    #[inline]
    pub fn get(&self, key: Key) -> Option<V> {
        let slot = self.slot_of(key);
        (self.keys[slot] == key).then(|| self.values[slot])
    }

    /// Prefetch what [`KeyMap::entry`] reads for `key`.
    #[inline]
    pub fn prefetch(&self, key: Key) {
        let slot = self.home(key);
        prefetch(&self.keys, slot);
        prefetch(&self.values, slot);
    }

    /// The value of `key`. A key that is not in the map yet gets the default value.
    #[inline]
    pub fn entry(&mut self, key: Key) -> &mut V {
        let slot = self.slot_of(key);
        if self.keys[slot] == key {
            return &mut self.values[slot];
        }
        self.insert(key)
    }

    /// Iterate over all keys and values, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = (Key, V)> + '_ {
        let slots = self.keys.iter().zip(&self.values);
        slots
            .filter(|&(&key, _)| key != 0)
            .map(|(&key, &value)| (key, value))
    }

    /// The slot that holds the key, or the free slot where it belongs.
    #[inline]
    fn slot_of(&self, key: Key) -> usize {
        let mask = self.keys.len() - 1;
        let mut slot = self.home(key);
        while self.keys[slot] != key && self.keys[slot] != 0 {
            slot = (slot + 1) & mask;
        }
        slot
    }

    /// The slot where the search for `key` begins.
    #[inline]
    fn home(&self, key: Key) -> usize {
        (hash(key ^ self.seed) >> (64 - self.keys.len().trailing_zeros())) as usize
    }

    #[cold]
    fn insert(&mut self, key: Key) -> &mut V {
        if self.len >= self.keys.len() / 8 * 5 {
            self.grow();
        }
        let slot = self.slot_of(key);
        self.keys[slot] = key;
        self.len += 1;
        &mut self.values[slot]
    }

    fn grow(&mut self) {
        let mut larger = KeyMap::with_capacity(self.len * 2);
        for (key, value) in self.iter() {
            *larger.insert(key) = value;
        }
        *self = larger;
    }
}

fn filled<T: Copy>(n: usize, value: T) -> Vec<T> {
    // Should this allocation fail, `resize` tries again and aborts the process.
    let mut values = large_vec(n).unwrap_or_default();
    values.resize(n, value);
    values
}

fn random_key() -> Key {
    use std::hash::{BuildHasher, RandomState};
    let random = |i: u64| u128::from(RandomState::new().hash_one(i));
    random(0) << 64 | random(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_room_for_the_capacity_and_no_more_than_needed() {
        for (capacity, n_slots) in [(0, 64), (40, 64), (41, 128), (80, 128), (81, 256)] {
            let mut map = KeyMap::<u32>::with_capacity(capacity);
            assert_eq!(map.keys.len(), n_slots, "for {capacity}");
            for key in 1..=capacity {
                map.entry(key as Key);
            }
            assert_eq!(map.keys.len(), n_slots, "with {capacity}");
        }
    }

    #[test]
    fn it_doubles_when_it_is_full() {
        let mut map = KeyMap::default();
        let mut sizes = vec![map.keys.len()];
        for key in 1..=10_000 {
            *map.entry(key) = key as u32;
            assert!(map.len() * 8 <= map.keys.len() * 5);
            if map.keys.len() != sizes[sizes.len() - 1] {
                sizes.push(map.keys.len());
            }
        }
        assert_eq!(sizes, (6..=14).map(|log2| 1 << log2).collect::<Vec<_>>());
        assert!((1..=10_000).all(|key| map.get(key) == Some(key as u32)));
    }
}
