//! Counting pre-tokens and learning merges. `cargo bench --bench train`

mod common;

use criterion::{BatchSize, Criterion, Throughput};
use gptfast_rust::Context;
use gptfast_rust::naive;
use gptfast_rust::pretokenize::Pattern;
use gptfast_rust::train::piece_counts::PieceCounts;
use gptfast_rust::train::{Limits, train};
use gptfast_rust::vocab::Pair;

const N_MERGES: usize = 4096;

fn count(text: &str) -> PieceCounts {
    let mut counts = PieceCounts::default();
    counts
        .add_text(
            &Context::default(),
            &Pattern::new("gpt2").unwrap(),
            text.as_bytes(),
        )
        .unwrap();
    counts
}

fn learn(counts: PieceCounts, n_merges: usize) -> Vec<Pair> {
    let bytes = std::array::from_fn(|i| i as u8);
    let limits = Limits {
        n_merges,
        min_frequency: 1,
        forbidden: &[],
        max_token_length: None,
    };
    train(&Context::default(), counts, &bytes, limits, |_| true).unwrap()
}

fn training(criterion: &mut Criterion) {
    let text = common::prose(4 << 20);
    assert_equals_naive(&text[..1 << 15]);
    let counts = count(&text);
    let mut group = criterion.benchmark_group("train");
    group.sample_size(10);
    group.throughput(Throughput::Bytes(text.len() as u64));
    group.bench_function("count", |bencher| bencher.iter(|| count(&text)));
    group.throughput(Throughput::Elements(N_MERGES as u64));
    group.bench_function("merge", |bencher| {
        bencher.iter_batched(
            || counts.clone(),
            |counts| learn(counts, N_MERGES),
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

fn assert_equals_naive(text: &str) {
    let mut pieces = Vec::new();
    let collect = |piece: &'_ str| {
        pieces.push(piece.as_bytes().to_vec());
        Ok(())
    };
    Pattern::new("gpt2").unwrap().split(text, collect).unwrap();
    let pieces: Vec<&[u8]> = pieces.iter().map(Vec::as_slice).collect();
    assert_eq!(learn(count(text), 64), naive::train(&pieces, 64, 1, &[]));
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    training(&mut criterion);
    criterion.final_summary();
}
