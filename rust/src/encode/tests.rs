use std::thread;

use proptest::prelude::*;

use super::*;
use crate::util::context::Context;
use crate::vocab::Pair;

/// Merges of a, b and the tokens that they make, each of them once.
pub(super) fn some_merges() -> impl Strategy<Value = Vec<Pair>> {
    let index = || any::<prop::sample::Index>();
    prop::collection::vec((index(), index()), 0..40).prop_map(|sides| {
        let mut tokens: Vec<u32> = vec![b'a'.into(), b'b'.into()];
        let mut merges = Vec::new();
        for (left, right) in sides {
            let pair = (*left.get(&tokens), *right.get(&tokens));
            if !merges.contains(&pair) {
                tokens.push(256 + merges.len() as u32);
                merges.push(pair);
            }
        }
        merges
    })
}

fn single_bytes() -> Tokenizer {
    let bytes = std::array::from_fn(|i| i as u8);
    let vocab = Vocab::from_merges(&Context::default(), &bytes, &[], &[]).unwrap();
    Tokenizer::new(vocab, Pattern::new("gpt2").unwrap())
}

/// A text of so many different words that its cache grows once.
fn words(first: u32) -> String {
    let letter = |i: u32, shift: u32| char::from(b'a' + (i >> shift & 15) as u8);
    let word = |i: u32| (0..6).map(|n| letter(i, 4 * n)).collect::<String>();
    (first..first + 8000)
        .map(|i| format!(" {}", word(i)))
        .collect()
}

#[test]
fn all_caches_together_stay_within_the_budget() {
    let mut tokenizer = single_bytes();
    let small = Cache::new().unwrap().n_bytes();
    // Room for five small caches and for one that has grown once.
    tokenizer.budget = Budget::new(5 * small + 4 * small);
    let expected = single_bytes().encode_ordinary(&words(0)).unwrap();
    thread::scope(|scope| {
        for _ in 0..5 {
            scope.spawn(|| {
                let ids = tokenizer.encode_ordinary(&words(0)).unwrap();
                assert!(ids == expected);
            });
        }
    });
    let kept = tokenizer.budget.reserved();
    assert!((4 * small..=9 * small).contains(&kept), "{kept} of {small}");
    // What is idle makes room for the next cache.
    tokenizer.encode_ordinary(&words(1 << 20)).unwrap();
    tokenizer.release_memory();
    assert_eq!(tokenizer.budget.reserved(), 0);
    assert!(tokenizer.encode_ordinary(&words(0)).unwrap() == expected);
}
