use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::util::piece_key::{key_of, long_key};

/// 4 buckets at first, 64 at most, and an overflow for a few long pre-tokens only.
const TINY: Limits = Limits {
    log2_buckets: (2, 6),
    overflow: 400,
};

/// Look up the ids of a pre-token as the encoder does.
fn look_up<I: Id>(cache: &mut Cache, piece: &[u8], key: Key, home: HomeBucket) -> Option<Vec<u8>> {
    let known = cache.table().get(key, home);
    let ids = known.or_else(|| cache.promote(key, home))?;
    let (lanes, n) = I::unpack(ids);
    if let Some(ids) = lanes.get(..n) {
        return Some(bytemuck::cast_slice(ids).to_vec());
    }
    let ids = if is_long(key) {
        cache.long_overflow::<I>(ids, piece)?
    } else {
        cache.overflow::<I>(ids)
    };
    Some(as_bytes::<I>(ids))
}

fn as_bytes<I: Id>(ids: &[u32]) -> Vec<u8> {
    let ids: Vec<I> = ids.iter().map(|&id| I::from_u32(id)).collect();
    bytemuck::cast_slice(&ids).to_vec()
}

/// What the cache returns is what was inserted; what was inserted last is there; no key is there twice.
fn assert_remembers<I: Id>(entries: &[(Vec<u8>, Vec<u32>)], order: &[prop::sample::Index]) {
    let mut cache = Cache::with_buckets(TINY.log2_buckets.0, TINY).unwrap();
    let pool: HashMap<&[u8], Vec<u32>> = entries
        .iter()
        .map(|(piece, ids)| (&piece[..], ids[..ids.len().min(piece.len())].to_vec()))
        .collect();
    for index in order {
        let piece = &index.get(entries).0[..];
        let ids = &pool[piece];
        let key = key_of(piece).unwrap_or_else(|| long_key(piece));
        if cache.is_full() {
            cache.grow();
        }
        let home = cache.table().prefetch(key);
        let found = look_up::<I>(&mut cache, piece, key, home);
        if found.is_none() {
            cache.insert::<I>(key, home, ids, piece);
        }
        let again = look_up::<I>(&mut cache, piece, key, home);
        let all_cleared = cache.n_keys == 0;
        assert!(again == Some(as_bytes::<I>(ids)) || (found.is_none() && all_cleared));
        assert!(found.is_none() || found == again);

        let keys = cache.table().buckets.iter().flat_map(|bucket| bucket.keys);
        let mut keys: Vec<Key> = keys.filter(|&key| key != 0).collect();
        assert_eq!(keys.len(), cache.n_keys);
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), cache.n_keys);
        assert!(cache.overflow.len() < TINY.overflow + 2 * MAX_CACHED_BYTES);
    }
}

/// Pre-tokens and their ids below `n_vocab`, mostly short ones with few ids.
fn entries(n_vocab: u32) -> impl Strategy<Value = Vec<(Vec<u8>, Vec<u32>)>> {
    let piece = prop_oneof![
        6 => prop::collection::vec(any::<u8>(), 1..=4),
        3 => prop::collection::vec(0..3u8, 5..=17),
        1 => prop::collection::vec(any::<u8>(), 18..=MAX_CACHED_BYTES),
    ];
    let ids = prop_oneof![
        3 => prop::collection::vec(0..n_vocab, 1..=4),
        1 => prop::collection::vec(0..n_vocab, 1..=MAX_CACHED_BYTES),
    ];
    prop::collection::vec((piece, ids), 1..150)
}

fn order() -> impl Strategy<Value = Vec<prop::sample::Index>> {
    prop::collection::vec(any::<prop::sample::Index>(), 0..400)
}

proptest! {
    #[test]
    fn narrow_ids_are_remembered(entries in entries(1 << 16), order in order()) {
        assert_remembers::<u16>(&entries, &order);
    }

    #[test]
    fn wide_ids_are_remembered(entries in entries(crate::vocab::MAX_ID + 1), order in order()) {
        assert_remembers::<u32>(&entries, &order);
    }
}

#[test]
fn it_grows_to_its_limit() {
    let mut cache = Cache::with_buckets(TINY.log2_buckets.0, TINY).unwrap();
    for i in 0..1000u32 {
        if cache.is_full() {
            cache.grow();
        }
        let key = key_of(&i.to_le_bytes()).unwrap();
        let home = cache.table().prefetch(key);
        cache.insert::<u16>(key, home, &[i], &i.to_le_bytes());
    }
    assert_eq!(cache.table().buckets.len(), 64);
    assert!(cache.n_keys > 96, "{}", cache.n_keys); // of 128 slots
}
