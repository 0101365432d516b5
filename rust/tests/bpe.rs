//! The trainer and the encoder against naive twins that follow the definitions word by word.

use gptfast_rust::encode::Tokenizer;
use gptfast_rust::error::Error;
use gptfast_rust::pretokenize::Pattern;
use gptfast_rust::train::piece_counts::{PieceCounts, count_texts};
use gptfast_rust::train::spill::{LeftOut, Spill, training_bytes};
use gptfast_rust::train::{Pair, train};
use gptfast_rust::vocab::Vocab;
use proptest::prelude::*;
use std::collections::HashMap;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

fn from_merges(merges: &[Pair], special_tokens: &[String]) -> Result<Vocab, Error> {
    Vocab::from_merges(&BYTES, merges, special_tokens, &AtomicBool::new(false))
}

fn naive_merge(word: &[u32], pair: Pair, new_id: u32) -> Vec<u32> {
    let mut merged = Vec::new();
    let mut i = 0;
    while i < word.len() {
        if i + 1 < word.len() && (word[i], word[i + 1]) == pair {
            merged.push(new_id);
            i += 2;
        } else {
            merged.push(word[i]);
            i += 1;
        }
    }
    merged
}

fn naive_train(pieces: &[&[u8]], n_merges: usize, min_frequency: u64) -> Vec<Pair> {
    let mut words: Vec<Vec<u32>> = pieces
        .iter()
        .map(|piece| piece.iter().map(|&byte| byte.into()).collect())
        .collect();
    let mut merges = Vec::new();
    while merges.len() < n_merges {
        let mut counts: HashMap<Pair, u64> = HashMap::new();
        for word in &words {
            for pair in word.windows(2) {
                *counts.entry((pair[0], pair[1])).or_default() += 1;
            }
        }
        let most = counts.values().copied().max().unwrap_or(0);
        if most < min_frequency {
            break;
        }
        let best = counts
            .into_iter()
            .filter(|&(_, n)| n == most)
            .map(|(pair, _)| pair)
            .min();
        let best = best.unwrap();
        let new_id = 256 + merges.len() as u32;
        words = words
            .iter()
            .map(|word| naive_merge(word, best, new_id))
            .collect();
        merges.push(best);
    }
    merges
}

/// tiktoken's rule: of all adjacent tokens whose bytes together are a token, merge the lowest rank.
fn naive_encode_by_rank(vocab: &Vocab, piece: &[u8]) -> Vec<u32> {
    let mut parts: Vec<Vec<u8>> = piece.iter().map(|&byte| vec![byte]).collect();
    loop {
        let ranks = parts.windows(2).enumerate().filter_map(|(i, pair)| {
            let rank = vocab.id_of(&pair.concat())?;
            Some((rank, i))
        });
        let Some((_, i)) = ranks.min() else { break };
        let right = parts.remove(i + 1);
        parts[i].extend(right);
    }
    parts
        .iter()
        .map(|part| vocab.id_of(part).unwrap())
        .collect()
}

const BYTES: [u8; 256] = {
    let mut bytes = [0; 256];
    let mut i = 0;
    while i < 256 {
        bytes[i] = i as u8;
        i += 1;
    }
    bytes
};

fn counts_of(pattern: &Pattern, texts: &[&str], n_threads: usize) -> PieceCounts {
    let mut partial = vec![PieceCounts::default(); n_threads];
    count_texts(&mut partial, pattern, texts, &AtomicBool::new(false)).unwrap();
    let mut counts = PieceCounts::default();
    for some in partial {
        counts.append(some, &AtomicBool::new(false)).unwrap();
    }
    counts
}

fn train_on(counts: PieceCounts, n_merges: usize, min_frequency: u64) -> Vec<Pair> {
    train_with(1, counts, n_merges, min_frequency)
}

fn train_with(
    n_threads: usize,
    counts: PieceCounts,
    n_merges: usize,
    min_frequency: u64,
) -> Vec<Pair> {
    train(
        counts,
        &BYTES,
        n_merges,
        min_frequency,
        n_threads,
        &AtomicBool::new(false),
        |_| true,
    )
    .unwrap()
}

/// Few letters, so that pairs repeat, overlap and tie.
fn texts() -> impl Strategy<Value = Vec<String>> {
    let text = prop_oneof![
        "[ab]{0,30}",
        "[abc ]{0,40}",
        "(ab|aab|ba |é){0,20}",
        any::<String>()
    ];
    prop::collection::vec(text, 0..6)
}

fn pattern_name() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["gpt2", "cl100k", "o200k", "none"])
}

/// PROPTEST_CASES=200000 tries as many.
fn cases(n: u32) -> ProptestConfig {
    match std::env::var_os("PROPTEST_CASES") {
        Some(_) => ProptestConfig::default(),
        None => ProptestConfig::with_cases(n),
    }
}

proptest! {
    #![proptest_config(cases(512))]

    #[test]
    fn training_and_encoding_equal_the_naive_twins(
        learn_from in texts(),
        encode_too in texts(),
        pattern in pattern_name(),
        n_merges in 0..60usize,
        min_frequency in 1..4u64,
    ) {
        let pattern = Pattern::new(pattern).unwrap();
        let texts: Vec<&str> = learn_from.iter().map(String::as_str).collect();
        let mut pieces = Vec::new();
        for text in &texts {
            pattern.split(text, |piece| { pieces.push(piece.as_bytes()); Ok(()) }).unwrap();
        }
        let merges = train_on(counts_of(&pattern, &texts, 1), n_merges, min_frequency);
        let on_three = train_with(3, counts_of(&pattern, &texts, 3), n_merges, min_frequency);
        prop_assert_eq!(&merges, &on_three);
        prop_assert_eq!(&merges, &naive_train(&pieces, n_merges, min_frequency));

        let vocab = from_merges(&merges, &[]).unwrap();
        let tokenizer = Tokenizer::new(vocab.clone(), pattern.clone());
        for text in learn_from.iter().chain(&encode_too) {
            let mut by_merges = Vec::new();
            let mut by_rank = Vec::new();
            pattern.split(text, |piece| {
                let mut word: Vec<u32> = piece.bytes().map(u32::from).collect();
                for (new_id, &pair) in (256..).zip(&merges) {
                    word = naive_merge(&word, pair, new_id);
                }
                by_merges.extend(word);
                by_rank.extend(naive_encode_by_rank(&vocab, piece.as_bytes()));
                Ok(())
            }).unwrap();
            let ids = tokenizer.encode_ordinary(text).unwrap();
            prop_assert_eq!(&ids, &by_merges);
            prop_assert_eq!(&ids, &by_rank);
            let ids = ids.into_iter().map(i64::from);
            prop_assert_eq!(vocab.decode_bytes(ids, &AtomicBool::new(false)).unwrap(), text.as_bytes());
        }
    }

    #[test]
    fn any_bytes_survive(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
        let vocab = from_merges(&[(0x61, 0x62), (0xe2, 0x82)], &[]).unwrap();
        let tokenizer = Tokenizer::new(vocab.clone(), Pattern::Gpt2);
        let mut ids = Vec::new();
        tokenizer.encode_bytes_to(&bytes, &AtomicBool::new(false), &mut ids).unwrap();
        let ids = ids.into_iter().map(i64::from);
        prop_assert_eq!(vocab.decode_bytes(ids, &AtomicBool::new(false)).unwrap(), bytes);
    }
}

proptest! {
    #![proptest_config(cases(24))]

    /// Pre-tokens of many thousand bytes are merged in blocks, which are then joined.
    #[test]
    fn long_pieces_equal_the_naive_twin(
        learn_from in "([ab]{0,60}|[abc]{0,60}|(ab|aab){0,20}|a{0,80})",
        unit in "[abc]{1,40}",
        n_units in 1..30_000usize,
        random in "([abc]{0,9000}|(ab|aab){0,4000})",
        n_merges in 0..60usize,
    ) {
        let merges = train_on(counts_of(&Pattern::None, &[&learn_from], 1), n_merges, 1);
        let vocab = from_merges(&merges, &[]).unwrap();
        let tokenizer = Tokenizer::new(vocab, Pattern::None);
        let repeated = unit.repeat(n_units.div_ceil(unit.len()));
        for text in [format!("{random}{repeated}"), format!("{repeated}{random}")] {
            let word: Vec<u32> = text.bytes().map(u32::from).collect();
            let word = (256..).zip(&merges).fold(word, |word, (new_id, &pair)| {
                naive_merge(&word, pair, new_id)
            });
            prop_assert_eq!(tokenizer.encode_ordinary(&text).unwrap(), word);
        }
    }
}

#[test]
fn a_letter_more_changes_all_that_follows() {
    // 97 + 97 -> 256, 256 + 256 -> 257: what is left over is at the end of each run, wherever blocks end.
    let vocab = from_merges(&[(97, 97), (256, 256)], &[]).unwrap();
    let tokenizer = Tokenizer::new(vocab, Pattern::None);
    for n_before in 0..6 {
        for n in 100_000..100_004 {
            let text = format!("{}b{}", "a".repeat(n_before), "a".repeat(n));
            let run = |n: usize| {
                let mut ids = vec![257; n / 4];
                ids.extend([256].repeat(n % 4 / 2));
                ids.extend([97].repeat(n % 2));
                ids
            };
            let expected = [run(n_before), vec![98], run(n)].concat();
            assert_eq!(tokenizer.encode_ordinary(&text).unwrap(), expected);
        }
    }
}

#[test]
fn the_last_letter_changes_all_before_it() {
    // yz goes first, then xy, then wx: so whether there is a z decides how all the others pair up.
    let merges: Vec<Pair> = (b'a'..=b'y')
        .rev()
        .map(|c| (c.into(), u32::from(c) + 1))
        .collect();
    let vocab = from_merges(&merges, &[]).unwrap();
    let tokenizer = Tokenizer::new(vocab, Pattern::None);
    let alphabet: String = ('a'..='z').chain(['-']).collect();
    // Of 27 bytes, so that blocks of a power of two end at each of the letters.
    let ids = tokenizer.encode_ordinary(&alphabet.repeat(30_000)).unwrap();
    let pairs = (0..26).step_by(2).map(|i| 256 + 24 - i).chain([45]);
    let expected: Vec<u32> = pairs.collect();
    assert_eq!(ids, expected.repeat(30_000));
}

fn listed(counts: &PieceCounts) -> Vec<(Vec<u8>, u64)> {
    let mut list = Vec::new();
    let visit = |piece: &[u8], count| {
        list.push((piece.to_vec(), count));
        Ok(())
    };
    counts.for_each(&AtomicBool::new(false), visit).unwrap();
    list.sort();
    list
}

/// Each of 3,000 pre-tokens of different lengths 1 to 5 times, in files by way of several spills.
fn spilled(n_spills: u64) -> (Spill, PieceCounts) {
    let mut spill = Spill::new().unwrap();
    let mut all = PieceCounts::default();
    for round in 0..n_spills {
        let mut some = PieceCounts::default();
        for i in (0..3000).filter(|i| i % n_spills == round || i % 7 == 0) {
            let piece = format!("{i}{}", "x".repeat(i as usize % 40));
            some.add(piece.as_bytes(), 1 + i % 5).unwrap();
            all.add(piece.as_bytes(), 1 + i % 5).unwrap();
        }
        spill.take(&mut some, &AtomicBool::new(false)).unwrap();
        assert!(some.is_empty());
    }
    (spill, all)
}

#[test]
fn counts_come_back_from_disk() {
    let (mut spill, all) = spilled(3);
    let (kept, left_out) = spill
        .most_frequent(u64::MAX, &AtomicBool::new(false))
        .unwrap();
    assert_eq!(listed(&kept), listed(&all));
    assert_eq!(left_out, LeftOut::default());
}

#[test]
fn the_rarest_counts_are_left_out() {
    let (_, all) = spilled(1);
    let all = listed(&all);
    let size_of_all: u64 = all.iter().map(|(piece, _)| training_bytes(piece)).sum();
    for room in [0, size_of_all / 10, size_of_all / 2, size_of_all / 10 * 9] {
        let (kept, left_out) = spilled(1)
            .0
            .most_frequent(room, &AtomicBool::new(false))
            .unwrap();
        let kept = listed(&kept);
        let size: u64 = kept.iter().map(|(piece, _)| training_bytes(piece)).sum();
        // A hash decides at the border, so the room is met on average only.
        assert!(size.abs_diff(room) <= size_of_all / 50, "{size} of {room}");
        assert_eq!(left_out.pieces as usize, all.len() - kept.len());
        let gone: Vec<_> = all.iter().filter(|count| !kept.contains(count)).collect();
        assert_eq!(
            gone.iter().map(|count| count.1).max(),
            Some(left_out.at_most)
        );
        assert!(
            kept.iter()
                .all(|count| all.contains(count) && count.1 >= left_out.at_most)
        );
        // Not the order in which they were counted decides.
        let (again, _) = spilled(1)
            .0
            .most_frequent(room, &AtomicBool::new(false))
            .unwrap();
        assert_eq!(listed(&again), kept);
    }
}

#[test]
fn a_tie_goes_to_the_smallest_pair_of_ids() {
    // ab and cd occur twice each: (97, 98) is smaller than (99, 100).
    let counts = counts_of(&Pattern::None, &["cd", "ab", "cd", "ab"], 1);
    let merges = train_on(counts, 2, 2);
    assert_eq!(merges, [(97, 98), (99, 100)]);
}

#[test]
fn training_can_be_interrupted() {
    let counts = counts_of(&Pattern::None, &["ab"], 1);
    let stop = AtomicBool::new(false);
    assert_eq!(
        train(counts.clone(), &BYTES, 1, 1, 1, &stop, |_| false),
        Err(Error::Interrupted)
    );
    let stop = AtomicBool::new(true);
    assert_eq!(
        train(counts, &BYTES, 1, 1, 1, &stop, |_| true),
        Err(Error::Interrupted)
    );
}

#[test]
fn special_tokens_come_last_and_decode_to_their_names() {
    let vocab = from_merges(&[(97, 98)], &["<|endoftext|>".into()]).unwrap();
    assert_eq!(vocab.special_tokens(), [("<|endoftext|>".into(), 257)]);
    assert_eq!(vocab.n_vocab(), 258);
    assert_eq!(
        vocab
            .decode_bytes([256, 257].into_iter(), &AtomicBool::new(false))
            .unwrap(),
        b"ab<|endoftext|>"
    );
}

#[test]
fn decoding_and_counts_hear_stop() {
    let vocab = from_merges(&[], &[]).unwrap();
    let stop = AtomicBool::new(true);
    let decoded = vocab.decode_bytes([65; 10].into_iter(), &stop);
    assert_eq!(decoded, Err(Error::Interrupted));
    let counts = counts_of(&Pattern::Gpt2, &["a b"], 1);
    let visited = counts.for_each(&stop, |_, _| Ok(()));
    assert_eq!(visited, Err(Error::Interrupted));
    let appended = counts.clone().append(counts, &stop);
    assert_eq!(appended, Err(Error::Interrupted));
}

#[test]
fn unknown_ids_are_named() {
    let vocab = from_merges(&[], &[]).unwrap();
    for id in [-1, 256, i64::MAX] {
        let error = vocab
            .decode_bytes([65, id].into_iter(), &AtomicBool::new(false))
            .unwrap_err();
        assert!(
            error
                .to_string()
                .contains(&format!("id {id} at position 1")),
            "{error}"
        );
    }
}

#[test]
fn vocabularies_that_are_no_bpe_are_refused() {
    let bytes = || (0..=255u8).map(|byte| (Box::from([byte]), u32::from(byte)));
    let vocab = |bytes: &mut dyn Iterator<Item = (Box<[u8]>, u32)>, special: &[(String, u32)]| {
        Vocab::new(bytes, special, &AtomicBool::new(false))
    };
    let with = |token: &[u8], id| vocab(&mut bytes().chain([(token.into(), id)]), &[]);
    for (result, complaint) in [
        (vocab(&mut bytes().skip(1), &[]), "0x00 has no id"),
        (with(b"abc", 256), "into 3 tokens"), // neither ab nor bc is a token
        (with(b"ab", 97), "the same id 97"),
        (with(b"a", 256), "two ids"),
        (with(b"", 256), "empty token"),
        (with(b"ab", u32::MAX), "expected at most"),
        (
            vocab(&mut bytes(), &[("a".into(), 256)]),
            "ordinary token already",
        ),
        (
            from_merges(&[], &["<|x|>".into(), "<|x|>".into()]),
            "given twice",
        ),
        (vocab(&mut bytes(), &[("".into(), 256)]), "empty"),
        (vocab(&mut bytes(), &[("<|x|>".into(), 0)]), "the same id 0"),
    ] {
        let error = result.unwrap_err().to_string();
        assert!(error.contains(complaint), "{error:?} lacks {complaint:?}");
    }
}

#[test]
fn many_special_tokens_take_time_in_proportion() {
    let seconds = |n: u32| {
        let special: Vec<(String, u32)> = (0..n).map(|i| (format!("<|{i}|>"), 256 + i)).collect();
        let bytes = (0..=255u8).map(|byte| (Box::from([byte]), u32::from(byte)));
        let start = Instant::now();
        let vocab = Vocab::new(bytes, &special, &AtomicBool::new(false)).unwrap();
        assert_eq!(vocab.ranks().len(), 256);
        start.elapsed()
    };
    let mut quickest = [Duration::MAX; 2];
    let linear = (0..30).any(|_| {
        quickest[0] = quickest[0].min(seconds(10_000));
        quickest[1] = quickest[1].min(seconds(40_000));
        quickest[1] <= 7 * quickest[0]
    });
    assert!(linear, "{quickest:?}");
}

#[test]
fn making_a_vocabulary_hears_stop() {
    let made = Vocab::from_merges(&BYTES, &[], &[], &AtomicBool::new(true));
    assert_eq!(made.err(), Some(Error::Interrupted));
}
