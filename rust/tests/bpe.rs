//! The trainer, the encoder and the vocabulary, against the naive definitions and by hand.

mod common;

use std::collections::HashMap;
use std::time::Duration;

use common::cpu_time;
use gptfast_rust::Context;
use gptfast_rust::encode::Tokenizer;
use gptfast_rust::error::Error;
use gptfast_rust::naive;
use gptfast_rust::pretokenize::Pattern;
use gptfast_rust::train::piece_counts::{PieceCounts, count_texts};
use gptfast_rust::train::spill::{Pruned, Spill, training_bytes};
use gptfast_rust::train::{Limits, extend, train};
use gptfast_rust::vocab::{Model, Pair, Vocab};
use proptest::prelude::*;

fn from_merges(merges: &[Pair], special_tokens: &[String]) -> Result<Vocab, Error> {
    Vocab::from_merges(&Context::default(), &BYTES, merges, special_tokens)
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
    let limits = limits(n_merges, min_frequency, forbidden);
    train(&context, counts, &BYTES, limits, |_| true).unwrap()
}

fn limits(n_merges: usize, min_frequency: u64, forbidden: &[Vec<u8>]) -> Limits<'_> {
    Limits {
        n_merges,
        min_frequency,
        forbidden,
        max_token_length: None,
    }
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
        let ranks = vocab.ranks().into_iter().map(|(token, id)| (token.into_owned(), id)).collect();
        let tokenizer = Tokenizer::new(vocab.clone(), pattern.clone());
        for text in learn_from.iter().chain(&encode_too) {
            let mut by_merges = Vec::new();
            let mut by_rank = Vec::new();
            pattern.split(text, |piece| {
                by_merges.extend(naive::encode(&merges, piece.as_bytes()));
                by_rank.extend(naive::encode_by_rank(&ranks, piece.as_bytes()));
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
        let tokenizer = Tokenizer::new(vocab.clone(), Pattern::new("gpt2").unwrap());
        let mut ids = Vec::new();
        tokenizer.encode_bytes_to(&Context::default(), &bytes, &mut ids).unwrap();
        let ids = ids.into_iter().map(i64::from);
        prop_assert_eq!(vocab.decode_bytes(&Context::default(), ids).unwrap(), bytes);
    }
}

/// A vocabulary of characters or bytes, of merges of these in any order, and of tokens that no merge makes.
#[derive(Debug, Clone)]
struct Invented {
    /// By id.
    tokens: Vec<String>,
    /// The pairs to merge, those of lowest rank first. One may be given twice.
    merges: Vec<(String, String)>,
}

/// Tokens of the letters a, b and c.
fn invented() -> impl Strategy<Value = Invented> {
    let pairs = prop::collection::vec(
        (any::<prop::sample::Index>(), any::<prop::sample::Index>()),
        0..30,
    );
    let whole = prop::collection::vec("[abc]{2,6}", 0..4);
    (pairs, whole).prop_flat_map(|(pairs, whole)| {
        let mut tokens: Vec<String> = ["a", "b", "c"].map(String::from).into();
        let mut merges = Vec::new();
        for (left, right) in pairs {
            let (left, right) = (left.get(&tokens).clone(), right.get(&tokens).clone());
            let both = format!("{left}{right}");
            if both.len() < 20 {
                merges.push((left, right));
                tokens.push(both);
            }
        }
        tokens.extend(whole);
        tokens.sort();
        tokens.dedup();
        (Just(tokens).prop_shuffle(), Just(merges).prop_shuffle())
            .prop_map(|(tokens, merges)| Invented { tokens, merges })
    })
}

fn model(merges: &[(String, String)]) -> Model {
    let bytes = |token: &String| Box::from(token.as_bytes());
    Model {
        merges: Some(merges.iter().map(|(l, r)| (bytes(l), bytes(r))).collect()),
        ..Model::default()
    }
}

fn listed(ids: &HashMap<String, u32>, merges: &[(String, String)]) -> HashMap<Pair, (u32, u32)> {
    let ranked = (0..).zip(merges);
    ranked
        .map(|(rank, (left, right))| {
            let made = ids[&format!("{left}{right}")];
            ((ids[left], ids[right]), (rank, made))
        })
        .collect()
}

fn vocab_of(ids: &HashMap<String, u32>, model: &Model) -> Vocab {
    let ranks = ids.iter().map(|(token, &id)| (token.as_bytes().into(), id));
    Vocab::with_model(&Context::default(), ranks, &[], model).unwrap()
}

proptest! {
    #![proptest_config(cases(512))]

    /// Characters, and bytes where some are missing, with merges in any order.
    #[test]
    fn merges_in_any_order_equal_the_naive_twin(
        invented in invented(),
        pieces in prop::collection::vec("([abcx]{0,60}|[ab]{0,12}|(abc|cab|é){0,60}|[abcé🦀]{0,200})", 1..6),
        n_bytes in prop_oneof![Just(256), Just(0xc4), Just(0)],
        unk in prop::option::of(Just(5000)),
        fuse_unk: bool,
        ignore_merges: bool,
    ) {
        let mut ids: HashMap<String, u32> = invented.tokens.iter().cloned().zip(0..).collect();
        ids.extend((0..n_bytes).map(|byte| (format!("<0x{byte:02X}>"), 1000 + byte)));
        let mut model = model(&invented.merges);
        (model.unk, model.fuse_unk, model.byte_fallback) = (unk, fuse_unk, true);
        model.ignore_merges = ignore_merges;
        let merges = listed(&ids, &invented.merges);
        let tokenizer = Tokenizer::new(vocab_of(&ids, &model), Pattern::None);
        for piece in &pieces {
            let first = naive::characters(&ids, unk, fuse_unk, piece);
            let whole = ids.get(piece).filter(|_| ignore_merges);
            let expected = whole.map_or_else(|| naive::merge(&merges, first), |&id| vec![id]);
            prop_assert_eq!(tokenizer.encode_ordinary(piece).unwrap(), expected);
        }
    }

    /// Bytes with merges in any order, and the same tokens as tiktoken reads them.
    #[test]
    fn merges_and_ranks_of_bytes_equal_the_naive_twins(
        invented in invented(),
        pieces in prop::collection::vec("([abcx]{0,60}|(abc|cab|é){0,60})", 1..6),
    ) {
        let mut ids: HashMap<String, u32> = invented.tokens.iter().cloned().zip(300..).collect();
        let ascii = (0..128u8).map(char::from).filter(|c| !('a'..='c').contains(c));
        ids.extend(ascii.map(|c| (c.to_string(), u32::from(c))));
        let merges = listed(&ids, &invented.merges);
        let vocab = vocab_of(&ids, &model(&invented.merges));
        let tokenizer = Tokenizer::new(vocab, Pattern::None);
        let mut ranks: HashMap<Vec<u8>, u32> = ids.into_iter().map(|(t, id)| (t.into(), id)).collect();
        for piece in &pieces {
            // The bytes of other characters than ASCII are left out.
            let first = piece.bytes().filter_map(|byte| ranks.get(&[byte][..])).copied().collect();
            let expected = naive::merge(&merges, first);
            prop_assert_eq!(tokenizer.encode_ordinary(piece).unwrap(), expected);
        }
        ranks.extend((128..=255u8).map(|byte| (vec![byte], u32::from(byte))));
        let as_ranks = ranks.iter().map(|(token, &id)| (token[..].into(), id));
        let vocab = Vocab::new(&Context::default(), as_ranks, &[]).unwrap();
        let tokenizer = Tokenizer::new(vocab, Pattern::None);
        for piece in pieces.iter().filter(|piece| !piece.is_empty()) {
            let expected = naive::encode_by_rank(&ranks, piece.as_bytes());
            prop_assert_eq!(tokenizer.encode_ordinary(piece).unwrap(), expected);
        }
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

fn list_of(counts: &PieceCounts) -> Vec<(Vec<u8>, u64)> {
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
    assert_eq!(list_of(&kept), list_of(&all));
    assert_eq!(pruned, Pruned::default());
}

#[test]
fn the_rarest_counts_are_left_out() {
    let context = Context::default();
    let (_, all) = spilled(&context, 1);
    let all = list_of(&all);
    let size_of_all: u64 = all.iter().map(|(piece, _)| training_bytes(piece)).sum();
    for room in [0, size_of_all / 10, size_of_all / 2, size_of_all / 10 * 9] {
        let (kept, pruned) = spilled(&context, 1).0.most_frequent(room).unwrap();
        let kept = list_of(&kept);
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
        assert_eq!(list_of(&again), kept);
    }
}

#[test]
fn a_tie_goes_to_the_smallest_pair_of_ids() {
    // ab and cd occur twice each: (97, 98) is smaller than (99, 100).
    let counts = counts_of(&Pattern::None, &["cd", "ab", "cd", "ab"], 1);
    let merges = train_on(counts, 2, 2);
    assert_eq!(merges, [(97, 98), (99, 100)]);
}

proptest! {
    #[test]
    fn further_merges_are_those_that_follow(
        texts in texts(),
        n_first in 0..20usize,
        n_further in 0..20usize,
        min_frequency in 1..3u64,
    ) {
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let counts = counts_of(&Pattern::new("gpt2").unwrap(), &texts, 1);
        let all = train_with(1, counts.clone(), n_first + n_further, min_frequency, &[]);
        let first = &all[..n_first.min(all.len())];
        let vocab = from_merges(first, &[]).unwrap();
        let limits = limits(n_further, min_frequency, &[]);
        let further = extend(&Context::new(2), counts, &vocab, limits, |_| true).unwrap();
        prop_assert_eq!(&further, &all[first.len()..]);
    }

    #[test]
    fn no_token_is_longer_than_allowed(texts in texts(), max in 1..5usize) {
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let counts = counts_of(&Pattern::new("gpt2").unwrap(), &texts, 1);
        let limits = Limits { max_token_length: Some(max), ..limits(30, 1, &[]) };
        let merges = train(&Context::default(), counts, &BYTES, limits, |_| true).unwrap();
        let mut lengths = vec![1; 256];
        for &(left, right) in &merges {
            lengths.push(lengths[left as usize] + lengths[right as usize]);
        }
        prop_assert!(lengths.iter().all(|&length| length <= max));
    }
}

fn stopped() -> Context {
    let context = Context::default();
    context.stop();
    context
}

#[test]
fn training_can_be_interrupted() {
    let counts = counts_of(&Pattern::None, &["ab"], 1);
    let limits = limits(1, 1, &[]);
    let by_callback = train(&Context::default(), counts.clone(), &BYTES, limits, |_| {
        false
    });
    assert_eq!(by_callback, Err(Error::Interrupted));
    let by_context = train(&stopped(), counts, &BYTES, limits, |_| true);
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
    let counts = counts_of(&Pattern::new("gpt2").unwrap(), &["a b"], 1);
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
