//! The definition of BPE, as short and as slow as it gets.
//!
//! Tests and benches check [`train`](crate::train::train) and [`Tokenizer`](crate::encode::Tokenizer)
//! against these functions. Here id i below 256 is the byte i, and id 256 + i is the token that merge i
//! makes.

use std::collections::HashMap;

use crate::vocab::Pair;

/// Learn at most `n_merges` merges from pre-tokens: merge the most frequent pair everywhere, again and
/// again, until no pair occurs at least `min_frequency` times. A tie goes to the smallest pair. A pair
/// that would make one of the tokens `forbidden` is never merged.
///
/// ```
/// // "ab" occurs three times, then "ab" + "a" twice.
/// let merges = gptfast_rust::naive::train(&[b"aba", b"aba", b"ab"], 10, 2, &[]);
/// assert_eq!(merges, [(97, 98), (256, 97)]);
/// ```
pub fn train(
    pieces: &[&[u8]],
    n_merges: usize,
    min_frequency: u64,
    forbidden: &[Vec<u8>],
) -> Vec<Pair> {
    let mut words: Vec<Vec<u32>> = pieces.iter().map(|piece| bytes_of(piece)).collect();
    let mut tokens: Vec<Vec<u8>> = (0..=255).map(|byte| vec![byte]).collect();
    let mut merges = Vec::new();
    while merges.len() < n_merges {
        let mut counts: HashMap<Pair, u64> = HashMap::new();
        for word in &words {
            for two in word.windows(2) {
                *counts.entry((two[0], two[1])).or_default() += 1;
            }
        }
        let bytes_of_pair =
            |pair: &Pair| [&tokens[pair.0 as usize][..], &tokens[pair.1 as usize]].concat();
        counts.retain(|pair, _| !forbidden.contains(&bytes_of_pair(pair)));
        let highest = counts.values().copied().max().unwrap_or(0);
        let most_frequent = counts
            .iter()
            .filter(|&(_, &count)| count == highest && count >= min_frequency);
        let Some((&pair, _)) = most_frequent.min() else {
            break;
        };
        let new_id = 256 + merges.len() as u32;
        for word in &mut words {
            *word = replace(word, pair, new_id);
        }
        tokens.push(bytes_of_pair(&pair));
        merges.push(pair);
    }
    merges
}

/// Encode one pre-token if the merges are in the order in which they were learned: apply one after
/// another.
///
/// ```
/// let ids = gptfast_rust::naive::encode(&[(97, 98), (256, 97)], b"abaab");
/// assert_eq!(ids, [257, 256]);
/// ```
pub fn encode(merges: &[Pair], piece: &[u8]) -> Vec<u32> {
    let mut word = bytes_of(piece);
    for (new_id, &pair) in (256..).zip(merges) {
        word = replace(&word, pair, new_id);
    }
    word
}

/// Encode one pre-token with merges in any order: again and again, merge the pair of lowest rank, and of
/// equal ones the leftmost. This is Hugging Face's definition.
///
/// `merges` has the rank of each pair and the id that it makes; `word` is what merging begins with, such
/// as the ids of the bytes.
///
/// ```
/// use std::collections::HashMap;
/// // The second merge comes first where it can: "abc" becomes a, bc, although a + b is a token.
/// let merges = HashMap::from([((97, 98), (1, 256)), ((98, 99), (0, 257))]);
/// assert_eq!(gptfast_rust::naive::merge(&merges, vec![97, 98, 99]), [97, 257]);
/// ```
pub fn merge(merges: &HashMap<Pair, (u32, u32)>, mut word: Vec<u32>) -> Vec<u32> {
    loop {
        let pairs = word.windows(2).enumerate();
        let possible = pairs.filter_map(|(place, two)| {
            let (rank, id) = merges.get(&(two[0], two[1]))?;
            Some((rank, place, id))
        });
        let Some((_, place, &id)) = possible.min() else {
            return word;
        };
        word.splice(place..place + 2, [id]);
    }
}

/// Encode one pre-token if ids are ranks: look up the whole, or else merge any two adjacent tokens whose
/// bytes are a token, those that make the smallest id first, and of equal ones the leftmost. This is
/// tiktoken's definition.
///
/// ```
/// use std::collections::HashMap;
/// let bytes = (0..=255u8).map(|byte| (vec![byte], u32::from(byte)));
/// let mut ranks: HashMap<_, _> = bytes.collect();
/// ranks.insert(b"abc".to_vec(), 256);
/// assert_eq!(gptfast_rust::naive::encode_by_rank(&ranks, b"abc"), [256]);
/// assert_eq!(gptfast_rust::naive::encode_by_rank(&ranks, b"abca"), [97, 98, 99, 97]);
/// ```
pub fn encode_by_rank(ranks: &HashMap<Vec<u8>, u32>, piece: &[u8]) -> Vec<u32> {
    if let Some(&id) = ranks.get(piece) {
        return vec![id];
    }
    let mut parts: Vec<Vec<u8>> = piece.iter().map(|&byte| vec![byte]).collect();
    loop {
        let pairs = parts.windows(2).enumerate();
        let possible = pairs.filter_map(|(place, two)| Some((ranks.get(&two.concat())?, place)));
        let Some((_, place)) = possible.min() else {
            break;
        };
        let right = parts.remove(place + 1);
        parts[place].extend(right);
    }
    parts.iter().map(|part| ranks[part]).collect()
}

/// What merging begins with if tokens are spelled in characters: the id of each character, or else those of
/// its bytes, the tokens `<0x00>` to `<0xFF>`. If one of them is missing too, the character is unknown: it
/// becomes `unk`, or nothing without one. With `fuse_unk`, unknown characters share one `unk` up to the
/// next that has an id.
///
/// As in `tokenizers`, an `unk` waits for that next character, while bytes do not.
///
/// ```
/// use std::collections::HashMap;
/// use gptfast_rust::naive::characters;
/// let ids = HashMap::from([("a".into(), 0), ("<0x62>".into(), 1)]);
/// assert_eq!(characters(&ids, Some(9), false, "abx"), [0, 1, 9]);
/// assert_eq!(characters(&ids, Some(9), false, "xxba"), [9, 1, 9, 0]);
/// assert_eq!(characters(&ids, Some(9), true, "xxba"), [1, 9, 0]);
/// ```
pub fn characters(
    ids: &HashMap<String, u32>,
    unk: Option<u32>,
    fuse_unk: bool,
    text: &str,
) -> Vec<u32> {
    let mut word = Vec::new();
    let mut waiting = None;
    for c in text.chars() {
        let bytes = c.to_string().into_bytes();
        let bytes = bytes.iter().map(|b| ids.get(&format!("<0x{b:02X}>")));
        if let Some(&id) = ids.get(&c.to_string()) {
            word.extend(waiting.take());
            word.push(id);
        } else if let Some(bytes) = bytes.collect::<Option<Vec<_>>>() {
            word.extend(bytes);
        } else {
            if !fuse_unk {
                word.extend(waiting.take());
            }
            waiting = unk;
        }
    }
    word.extend(waiting);
    word
}

/// Replace `pair` by `new_id` in a word, from left to right.
fn replace(word: &[u32], pair: Pair, new_id: u32) -> Vec<u32> {
    let mut merged = Vec::new();
    let mut i = 0;
    while i < word.len() {
        if word[i..].starts_with(&[pair.0, pair.1]) {
            merged.push(new_id);
            i += 2;
        } else {
            merged.push(word[i]);
            i += 1;
        }
    }
    merged
}

fn bytes_of(piece: &[u8]) -> Vec<u32> {
    piece.iter().map(|&byte| byte.into()).collect()
}
