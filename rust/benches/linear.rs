//! The products of one step of GPT-2 124M: time, and bytes of weights per second beside those of a plain
//! read. `cargo bench --bench linear [KIND] [THREADS]`
//!
//! The passes read all weights, which are larger than any cache. Each product counts with its smallest
//! time of all passes, and so does each part of the plain read: what else runs on the machine disturbs
//! short times less.

use std::hint::black_box;
use std::time::Instant;

use gptfast_rust::large_vec;
use gptfast_rust::linear::{Activations, Matrix, Weights, multiply_parallel};

/// (rows, columns) of the matrices of a layer, of which there are 12, and of the head.
const LAYER: [(usize, usize); 4] = [(2304, 768), (768, 768), (3072, 768), (768, 3072)];
const HEAD: (usize, usize) = (50257, 768);

fn main() {
    let mut shapes = LAYER.repeat(12);
    shapes.push(HEAD);
    let arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|a| !a.starts_with('-'))
        .collect();
    let n_weights: usize = shapes.iter().map(|(rows, columns)| rows * columns).sum();
    // Random enough: no bits that are special to any kind, and f16 scales of about 0.002.
    let mut memory = large_vec(n_weights).unwrap();
    memory.extend((0..n_weights as u32).map(|i| 0x1818_1818 ^ i.wrapping_mul(77) >> 9));
    let max_threads = arguments.get(1).map_or(2, |n| n.parse().unwrap());
    for n_threads in 1..=max_threads {
        let parts: Vec<_> = memory.chunks(1 << 22).collect();
        let plain = memory.len() as f64 * 4.0 / best(&parts, |part| read(part, n_threads));
        println!("{n_threads} threads, plain read: {:.1} GB/s", plain / 1e9);
        for kind in ["f32", "bf16", "q8_0", "q4_0"] {
            if arguments
                .first()
                .is_some_and(|only| only != kind && only != "all")
            {
                continue;
            }
            let matrices = matrices(kind, &shapes, &memory);
            let n_bytes: usize = matrices.iter().map(Matrix::n_bytes).sum();
            let mut one = 0.0;
            for n in [1, 2, 4, 8, 32, 128] {
                // Only the layers: a prompt needs the head for its last token alone.
                let matrices = if n > 8 {
                    &matrices[..48]
                } else {
                    &matrices[..]
                };
                let seconds = best(matrices, |matrix| multiply(matrix, n, n_threads));
                if n == 1 {
                    one = seconds;
                }
                println!(
                    "{kind:5} {n:4} vectors {:8.2} ms {:6.2} x {:7.0} tokens/s {:6.1} GB/s, {:3.0}%",
                    seconds * 1e3,
                    seconds / one,
                    n as f64 / seconds,
                    n_bytes as f64 / seconds / 1e9,
                    100.0 * n_bytes as f64 / seconds / plain
                );
            }
        }
    }
}

/// The sum of the smallest times of `work` for each of `parts`, in seconds.
fn best<T>(parts: &[T], work: impl Fn(&T)) -> f64 {
    let begin = Instant::now();
    let mut best = vec![f64::INFINITY; parts.len()];
    for pass in 0.. {
        if pass >= 3 && (begin.elapsed().as_secs_f64() > 2.0 || pass == 30) {
            break;
        }
        for (best, part) in best.iter_mut().zip(parts) {
            let start = Instant::now();
            work(part);
            *best = best.min(start.elapsed().as_secs_f64());
        }
    }
    best.iter().sum()
}

fn read(memory: &[u32], n_threads: usize) {
    std::thread::scope(|scope| {
        for part in memory.chunks(memory.len().div_ceil(n_threads)) {
            scope.spawn(move || {
                let (lines, _) = part.as_chunks::<64>();
                let mut all = [0u32; 64];
                for line in lines {
                    for (all, value) in all.iter_mut().zip(line) {
                        *all |= value;
                    }
                }
                black_box(all)
            });
        }
    });
}

fn matrices<'a>(kind: &str, shapes: &[(usize, usize)], mut memory: &'a [u32]) -> Vec<Matrix<'a>> {
    let mut take = |n_bytes: usize| {
        let (some, rest) = memory.split_at(n_bytes.div_ceil(4));
        memory = rest;
        some
    };
    // SAFETY (all): these values may have any bits, and there are as many bytes as were taken.
    shapes
        .iter()
        .map(|&(rows, columns)| {
            let n = rows * columns;
            let weights = match kind {
                "q8_0" => Weights::Q8_0(unsafe {
                    std::slice::from_raw_parts(take(n / 32 * 34).as_ptr().cast(), n / 32 * 34)
                }),
                "q4_0" => Weights::Q4_0(unsafe {
                    std::slice::from_raw_parts(take(n / 32 * 18).as_ptr().cast(), n / 32 * 18)
                }),
                "bf16" => Weights::Bf16(unsafe {
                    std::slice::from_raw_parts(take(n * 2).as_ptr().cast(), n)
                }),
                _ => Weights::F32(unsafe {
                    std::slice::from_raw_parts(take(n * 4).as_ptr().cast(), n)
                }),
            };
            Matrix::new(weights, rows, columns).unwrap()
        })
        .collect()
}

fn multiply(matrix: &Matrix, n: usize, n_threads: usize) {
    let mut x = Activations::new(matrix);
    x.set(&vec![0.5; n * matrix.columns()]);
    let mut out = vec![0.0; n * matrix.rows()];
    multiply_parallel(matrix, &x, &mut out, n_threads).unwrap();
    black_box(out);
}
