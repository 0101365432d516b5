//! Bytes per second of each split pattern. `cargo bench --bench pretokenize`

mod common;

use criterion::{Criterion, Throughput};
use fancy_regex::Regex;
use gptfast_rust::pretokenize::{Pattern, SCANNERS, Scanner};

fn pretokenize(criterion: &mut Criterion) {
    let text = common::prose(1 << 20);
    let mut group = criterion.benchmark_group("pretokenize");
    group.throughput(Throughput::Bytes(text.len() as u64));
    for &Scanner { name, regex, .. } in &SCANNERS {
        let pattern = Pattern::new(name).unwrap();
        assert_equals_regex(&pattern, regex, &text);
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let mut n = 0;
                let mut count = |_, _| {
                    n += 1;
                    Ok(())
                };
                pattern.visit(&text, &mut count).unwrap();
                n
            });
        });
    }
    group.finish();
}

fn assert_equals_regex(pattern: &Pattern, regex: &str, text: &str) {
    let regex = Regex::new(regex).unwrap();
    let mut matches = regex.find_iter(text).map(|found| found.unwrap().as_str());
    let equal = |piece| {
        assert_eq!(Some(piece), matches.next());
        Ok(())
    };
    pattern.split(text, equal).unwrap();
    assert_eq!(matches.next(), None);
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    pretokenize(&mut criterion);
    criterion.final_summary();
}
