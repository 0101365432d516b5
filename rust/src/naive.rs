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
            *word = merge(word, pair, new_id);
        }
        tokens.push(bytes_of_pair(&pair));
        merges.push(pair);
    }
    merges
}

/// Encode one pre-token: apply one merge after another.
///
/// ```
/// let ids = gptfast_rust::naive::encode(&[(97, 98), (256, 97)], b"abaab");
/// assert_eq!(ids, [257, 256]);
/// ```
pub fn encode(merges: &[Pair], piece: &[u8]) -> Vec<u32> {
    let mut word = bytes_of(piece);
    for (new_id, &pair) in (256..).zip(merges) {
        word = merge(&word, pair, new_id);
    }
    word
}

/// Replace `pair` by `new_id` in a word, from left to right.
fn merge(word: &[u32], pair: Pair, new_id: u32) -> Vec<u32> {
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
