//! Encoding and decoding. `cargo bench --bench encode`

mod common;

use criterion::{BatchSize, Criterion, Throughput};
use gptfast_rust::Context;
use gptfast_rust::encode::Tokenizer;
use gptfast_rust::naive;
use gptfast_rust::pretokenize::Pattern;
use gptfast_rust::train::piece_counts::PieceCounts;
use gptfast_rust::train::{Limits, train};
use gptfast_rust::vocab::{Pair, Vocab};

const N_MERGES: usize = 4096;

fn encode(criterion: &mut Criterion) {
    let text = common::prose(4 << 20);
    let merges = learn(&text);
    let vocab = vocab_of(&merges);
    let new_tokenizer = |pattern| Tokenizer::new(vocab.clone(), pattern);
    let tokenizer = new_tokenizer(Pattern::new("gpt2").unwrap());
    let ids = tokenizer.encode_ordinary(&text).unwrap();
    assert_equals_naive(&tokenizer, &merges, &text[..1 << 13]);
    assert_eq!(decode(&vocab, &ids), text.as_bytes());

    let mut group = criterion.benchmark_group("encode");
    group.sample_size(20);
    group.throughput(Throughput::Bytes(text.len() as u64));
    group.bench_function("warm cache", |bencher| {
        bencher.iter(|| tokenizer.encode_ordinary(&text).unwrap());
    });
    group.bench_function("cold cache", |bencher| {
        bencher.iter_batched(
            || new_tokenizer(Pattern::new("gpt2").unwrap()),
            |tokenizer| tokenizer.encode_ordinary(&text).unwrap(),
            BatchSize::PerIteration,
        );
    });
    group.bench_function("decode", |bencher| bencher.iter(|| decode(&vocab, &ids)));

    // One pre-token of a megabyte is merged in blocks.
    let long = &text[..1 << 20];
    let tokenizer = new_tokenizer(Pattern::None);
    assert_equals_naive(&tokenizer, &merges, &text[..1 << 16]);
    group.throughput(Throughput::Bytes(long.len() as u64));
    group.bench_function("one long pre-token", |bencher| {
        bencher.iter(|| tokenizer.encode_ordinary(long).unwrap());
    });
    group.finish();
}

fn learn(text: &str) -> Vec<Pair> {
    let context = Context::default();
    let mut counts = PieceCounts::default();
    counts
        .add_text(&context, &Pattern::new("gpt2").unwrap(), text.as_bytes())
        .unwrap();
    let bytes = std::array::from_fn(|i| i as u8);
    let limits = Limits {
        n_merges: N_MERGES,
        min_frequency: 1,
        forbidden: &[],
        max_token_length: None,
    };
    train(&context, counts, &bytes, limits, |_| true).unwrap()
}

fn vocab_of(merges: &[Pair]) -> Vocab {
    let bytes = std::array::from_fn(|i| i as u8);
    Vocab::from_merges(&Context::default(), &bytes, merges, &[]).unwrap()
}

fn decode(vocab: &Vocab, ids: &[u32]) -> Vec<u8> {
    let ids = ids.iter().map(|&id| i64::from(id));
    vocab.decode_bytes(&Context::default(), ids).unwrap()
}

fn assert_equals_naive(tokenizer: &Tokenizer, merges: &[Pair], text: &str) {
    let mut expected = Vec::new();
    let encode = |piece: &str| {
        expected.extend(naive::encode(merges, piece.as_bytes()));
        Ok(())
    };
    tokenizer.pattern().split(text, encode).unwrap();
    assert_eq!(tokenizer.encode_ordinary(text).unwrap(), expected);
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    encode(&mut criterion);
    criterion.final_summary();
}
