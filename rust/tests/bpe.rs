//! The trainer, the encoder and the vocabulary, against the naive definitions and by hand.

mod common;

use std::time::Duration;

use common::cpu_time;
use gptfast_rust::Context;
use gptfast_rust::encode::Tokenizer;
use gptfast_rust::error::Error;
use gptfast_rust::naive;
use gptfast_rust::pretokenize::Pattern;
use gptfast_rust::train::piece_counts::{PieceCounts, count_texts};
use gptfast_rust::train::spill::{Pruned, Spill, training_bytes};
use gptfast_rust::train::train;
use gptfast_rust::vocab::{Pair, Vocab};
use proptest::prelude::*;

fn from_merges(merges: &[Pair], special_tokens: &[String]) -> Result<Vocab, Error> {
    Vocab::from_merges(&Context::default(), &BYTES, merges, special_tokens)
}

/// tiktoken's rule: of all adjacent tokens whose concatenated bytes are a token, merge those of lowest
/// rank.
fn encode_by_rank(vocab: &Vocab, piece: &[u8]) -> Vec<u32> {
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
    let context = Context::new(n_threads);
    let mut partial = vec![PieceCounts::default(); n_threads];
    let numbered: Vec<_> = texts.iter().enumerate().collect();
    count_texts(&context, &mut partial, pattern, &numbered).unwrap();
    let mut counts = PieceCounts::default();
    for some in partial {
        counts.append(&context, some).unwrap();
    }
    counts
}

fn train_on(counts: PieceCounts, n_merges: usize, min_frequency: u64) -> Vec<Pair> {
    train_with(1, counts, n_merges, min_frequency, &[])
}

fn train_with(
    n_threads: usize,
    counts: PieceCounts,
    n_merges: usize,
    min_frequency: u64,
    forbidden: &[Vec<u8>],
) -> Vec<Pair> {
    let context = Context::new(n_threads);
    train(
        &context,
        counts,
        &BYTES,
        n_merges,
        min_frequency,
        forbidden,
        |_| true,
    )
    .unwrap()
}

/// Texts of few letters, so that pairs repeat, overlap and tie.
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

/// `n` cases, unless PROPTEST_CASES sets another number.
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
        forbidden in prop::collection::vec("[ab]{2,4}".prop_map(String::into_bytes), 0..3),
    ) {
        let pattern = Pattern::new(pattern).unwrap();
        let texts: Vec<&str> = learn_from.iter().map(String::as_str).collect();
        let mut pieces = Vec::new();
        for text in &texts {
            pattern.split(text, |piece| { pieces.push(piece.as_bytes()); Ok(()) }).unwrap();
        }
        let [merges, on_three] = [1, 3].map(|n| {
            let counts = counts_of(&pattern, &texts, n);
            train_with(n, counts, n_merges, min_frequency, &forbidden)
        });
        prop_assert_eq!(&merges, &on_three);
        prop_assert_eq!(&merges, &naive::train(&pieces, n_merges, min_frequency, &forbidden));

        let vocab = from_merges(&merges, &[]).unwrap();
        let tokenizer = Tokenizer::new(vocab.clone(), pattern.clone());
        for text in learn_from.iter().chain(&encode_too) {
            let mut by_merges = Vec::new();
            let mut by_rank = Vec::new();
            pattern.split(text, |piece| {
                by_merges.extend(naive::encode(&merges, piece.as_bytes()));
                by_rank.extend(encode_by_rank(&vocab, piece.as_bytes()));
                Ok(())
            }).unwrap();
            let ids = tokenizer.encode_ordinary(text).unwrap();
            prop_assert_eq!(&ids, &by_merges);
            prop_assert_eq!(&ids, &by_rank);
            let ids = ids.into_iter().map(i64::from);
            prop_assert_eq!(vocab.decode_bytes(&Context::default(), ids).unwrap(), text.as_bytes());
        }
    }

    #[test]
    fn any_bytes_survive(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
        let vocab = from_merges(&[(0x61, 0x62), (0xe2, 0x82)], &[]).unwrap();
        let tokenizer = Tokenizer::new(vocab.clone(), Pattern::Gpt2);
        let mut ids = Vec::new();
        tokenizer.encode_bytes_to(&Context::default(), &bytes, &mut ids).unwrap();
        let ids = ids.into_iter().map(i64::from);
        prop_assert_eq!(vocab.decode_bytes(&Context::default(), ids).unwrap(), bytes);
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
            let expected = naive::encode(&merges, text.as_bytes());
            prop_assert_eq!(tokenizer.encode_ordinary(&text).unwrap(), expected);
        }
    }
}

#[test]
fn one_more_letter_changes_all_that_follows() {
    // 97 + 97 -> 256, 256 + 256 -> 257: the remainder is at the end of each run, wherever blocks end.
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
    // yz is merged first, then xy, then wx. So whether there is a z decides how all others pair up.
    let merges: Vec<Pair> = (b'a'..=b'y')
        .rev()
        .map(|c| (c.into(), u32::from(c) + 1))
        .collect();
    let vocab = from_merges(&merges, &[]).unwrap();
    let tokenizer = Tokenizer::new(vocab, Pattern::None);
    let alphabet: String = ('a'..='z').chain(['-']).collect();
    // The unit has 27 bytes, so blocks of a power of two end at each of the letters.
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
    counts.for_each(&Context::default(), visit).unwrap();
    list.sort();
    list
}

/// 3,000 pre-tokens of different lengths, 1 to 5 times each, written to files in `n_spills` steps.
fn spilled(context: &Context, n_spills: u64) -> (Spill<'_>, PieceCounts) {
    let mut spill = Spill::new(context).unwrap();
    let mut all = PieceCounts::default();
    for round in 0..n_spills {
        let mut some = PieceCounts::default();
        for i in (0..3000).filter(|i| i % n_spills == round || i % 7 == 0) {
            let piece = format!("{i}{}", "x".repeat(i as usize % 40));
            some.add(piece.as_bytes(), 1 + i % 5).unwrap();
            all.add(piece.as_bytes(), 1 + i % 5).unwrap();
        }
        spill.write(&mut some).unwrap();
        assert!(some.is_empty());
    }
    (spill, all)
}

#[test]
fn counts_come_back_from_disk() {
    let context = Context::default();
    let (mut spill, all) = spilled(&context, 3);
    let (kept, pruned) = spill.most_frequent(u64::MAX).unwrap();
    assert_eq!(listed(&kept), listed(&all));
    assert_eq!(pruned, Pruned::default());
}

#[test]
fn the_rarest_counts_are_left_out() {
    let context = Context::default();
    let (_, all) = spilled(&context, 1);
    let all = listed(&all);
    let size_of_all: u64 = all.iter().map(|(piece, _)| training_bytes(piece)).sum();
    for room in [0, size_of_all / 10, size_of_all / 2, size_of_all / 10 * 9] {
        let (kept, pruned) = spilled(&context, 1).0.most_frequent(room).unwrap();
        let kept = listed(&kept);
        let size: u64 = kept.iter().map(|(piece, _)| training_bytes(piece)).sum();
        // A hash decides at the cutoff, so the room is used only on average.
        assert!(size.abs_diff(room) <= size_of_all / 50, "{size} of {room}");
        assert_eq!(pruned.pieces as usize, all.len() - kept.len());
        let gone: Vec<_> = all.iter().filter(|count| !kept.contains(count)).collect();
        assert_eq!(
            gone.iter().map(|count| count.1).max(),
            Some(pruned.max_count)
        );
        assert!(
            kept.iter()
                .all(|count| all.contains(count) && count.1 >= pruned.max_count)
        );
        // The order of counting does not matter.
        let (again, _) = spilled(&context, 1).0.most_frequent(room).unwrap();
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

fn stopped() -> Context {
    let context = Context::default();
    context.stop();
    context
}

#[test]
fn training_can_be_interrupted() {
    let counts = counts_of(&Pattern::None, &["ab"], 1);
    let by_callback = train(
        &Context::default(),
        counts.clone(),
        &BYTES,
        1,
        1,
        &[],
        |_| false,
    );
    assert_eq!(by_callback, Err(Error::Interrupted));
    let by_context = train(&stopped(), counts, &BYTES, 1, 1, &[], |_| true);
    assert_eq!(by_context, Err(Error::Interrupted));
}

#[test]
fn special_tokens_come_last_and_decode_to_their_names() {
    let vocab = from_merges(&[(97, 98)], &["<|endoftext|>".into()]).unwrap();
    assert_eq!(vocab.special_tokens(), [("<|endoftext|>".into(), 257)]);
    assert_eq!(vocab.n_vocab(), 258);
    let decoded = vocab.decode_bytes(&Context::default(), [256, 257].into_iter());
    assert_eq!(decoded.unwrap(), b"ab<|endoftext|>");
}

#[test]
fn decoding_and_counts_can_be_interrupted() {
    let vocab = from_merges(&[], &[]).unwrap();
    let decoded = vocab.decode_bytes(&stopped(), [65; 10].into_iter());
    assert_eq!(decoded, Err(Error::Interrupted));
    let counts = counts_of(&Pattern::Gpt2, &["a b"], 1);
    let visited = counts.for_each(&stopped(), |_, _| Ok(()));
    assert_eq!(visited, Err(Error::Interrupted));
    let appended = counts.clone().append(&stopped(), counts);
    assert_eq!(appended, Err(Error::Interrupted));
}

#[test]
fn unknown_ids_are_named() {
    let vocab = from_merges(&[], &[]).unwrap();
    for id in [-1, 256, i64::MAX] {
        let error = vocab
            .decode_bytes(&Context::default(), [65, id].into_iter())
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
fn vocabularies_that_are_not_bpe_are_refused() {
    let bytes = || (0..=255u8).map(|byte| (Box::from([byte]), u32::from(byte)));
    let vocab = |bytes: &mut dyn Iterator<Item = (Box<[u8]>, u32)>, special: &[(String, u32)]| {
        Vocab::new(&Context::default(), bytes, special)
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
        let start = cpu_time();
        let vocab = Vocab::new(&Context::default(), bytes, &special).unwrap();
        assert_eq!(vocab.ranks().len(), 256);
        cpu_time() - start
    };
    let mut quickest = [Duration::MAX; 2];
    let linear = (0..30).any(|_| {
        quickest[0] = quickest[0].min(seconds(10_000));
        quickest[1] = quickest[1].min(seconds(40_000));
        // Linear time gives 4, or a few more where the larger one exceeds a cache; quadratic time gives 16.
        quickest[1] <= 7 * quickest[0]
    });
    assert!(linear, "{quickest:?}");
}

#[test]
fn creating_a_vocabulary_can_be_interrupted() {
    let created = Vocab::from_merges(&stopped(), &BYTES, &[], &[]);
    assert_eq!(created.err(), Some(Error::Interrupted));
}
