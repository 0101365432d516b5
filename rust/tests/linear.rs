//! Products of matrices and vectors against their definition, at every level that this processor has.

use std::ops::Range;

use gptfast_rust::error::Error;
use gptfast_rust::linear::{
    Activations, Level, Matrix, Output, Weights, multiply_at, multiply_parallel, naive, share,
};
use proptest::prelude::*;

const KINDS: [&str; 4] = ["f32", "bf16", "q8_0", "q4_0"];

/// The weights of a matrix, with their memory.
#[derive(Debug, Clone)]
enum Owned {
    F32(Vec<f32>),
    Bf16(Vec<u16>),
    Q8_0(Vec<u8>),
    Q4_0(Vec<u8>),
}

impl Owned {
    fn weights(&self) -> Weights<'_> {
        match self {
            Owned::F32(values) => Weights::F32(values),
            Owned::Bf16(values) => Weights::Bf16(values),
            Owned::Q8_0(bytes) => Weights::Q8_0(bytes),
            Owned::Q4_0(bytes) => Weights::Q4_0(bytes),
        }
    }
}

/// Numbers between -1 and 1 by Steele, Lea and Flood's generator.
fn random(seed: u64) -> impl FnMut() -> f32 {
    let mut state = seed;
    move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) as i64 as f32 / i64::MAX as f32
    }
}

/// Random weights. Blocks have any bytes at all, with scales from 0.0001 to 0.06, some of them negative.
fn weights(kind: &str, rows: usize, columns: usize, seed: u64) -> Owned {
    let mut random = random(seed);
    let mut blocks = |n_bytes: usize| {
        let mut bytes = Vec::new();
        for _ in 0..rows * columns / 32 {
            let sign = if random() < 0.0 { 0x8000 } else { 0 };
            let scale = sign | (0x0800 + (random().abs() * 8191.0) as u16);
            bytes.extend(scale.to_le_bytes());
            bytes.extend((2..n_bytes).map(|_| (random() * 128.0) as i8 as u8));
        }
        bytes
    };
    match kind {
        "q8_0" => Owned::Q8_0(blocks(34)),
        "q4_0" => Owned::Q4_0(blocks(18)),
        "bf16" => Owned::Bf16(
            (0..rows * columns)
                .map(|_| (random().to_bits() >> 16) as u16)
                .collect(),
        ),
        _ => Owned::F32((0..rows * columns).map(|_| random()).collect()),
    }
}

fn vectors(n: usize, columns: usize, seed: u64) -> Vec<f32> {
    let mut random = random(!seed);
    (0..n * columns).map(|_| random() * 3.0).collect()
}

/// The product at a level, of some rows; the others are NaN.
fn multiply(level: Level, matrix: &Matrix, rows: Range<usize>, x: &[f32]) -> Vec<f32> {
    let mut activations = Activations::new(matrix);
    activations.set(x);
    let mut out = vec![f32::NAN; activations.vectors() * matrix.rows()];
    let output = Output::new(&mut out, matrix.rows());
    // SAFETY: this is the only thread, and the level is available.
    unsafe { multiply_at(level, matrix, rows, &activations, &output) };
    out
}

/// How far each value of a product may be from the definition: the rounding of f32, and for blocks the
/// rounding of the activations, which changes each by at most 1/254 of the largest of its block.
fn bounds(matrix: &Matrix, x: &[f32]) -> Vec<f64> {
    let weights = naive::dequantize(matrix);
    let mut bounds = Vec::new();
    for vector in x.chunks(matrix.columns()) {
        for row in weights.chunks(matrix.columns()) {
            let mut bound = 0.0;
            for (w, x) in row.chunks(32).zip(vector.chunks(32)) {
                let largest = x.iter().fold(0.0f32, |a, b| a.max(b.abs()));
                for (w, x) in w.iter().zip(x) {
                    let (w, x) = (f64::from(w.abs()), f64::from(x.abs()));
                    bound += w * x * 1e-7 * (4.0 + matrix.columns() as f64 / 16.0);
                    if matrix.is_quantized() {
                        bound += w * f64::from(largest) / 253.9;
                    }
                }
            }
            bounds.push(bound);
        }
    }
    bounds
}

fn assert_near(matrix: &Matrix, x: &[f32], out: &[f32], what: &str) {
    let expected = naive::multiply(matrix, x);
    assert_eq!(out.len(), expected.len());
    for (i, ((&out, expected), bound)) in
        out.iter().zip(expected).zip(bounds(matrix, x)).enumerate()
    {
        let error = (f64::from(out) - expected).abs();
        assert!(
            error <= bound,
            "{what}, value {i}: {out} for {expected}, bound {bound}"
        );
    }
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn every_level_computes_the_product(
        kind in prop::sample::select(&KINDS[..]),
        rows in 1usize..70,
        blocks in 1usize..9,
        tail in 0usize..32,
        n in 1usize..12,
        seed: u64,
    ) {
        let columns = 32 * blocks + if kind.starts_with('q') { 0 } else { tail };
        let owned = weights(kind, rows, columns, seed);
        let matrix = Matrix::new(owned.weights(), rows, columns).unwrap();
        let x = vectors(n, columns, seed);
        let mut first = None;
        for &level in Level::available() {
            let what = format!("{level:?} {kind} {rows} x {columns} times {n}");
            let out = multiply(level, &matrix, 0..rows, &x);
            assert_near(&matrix, &x, &out, &what);
            // Alone, every vector and every range of rows has the same result, bit by bit.
            for (i, vector) in x.chunks(columns).enumerate() {
                let alone = multiply(level, &matrix, 0..rows, vector);
                prop_assert_eq!(bits(&alone), bits(&out[i * rows..][..rows]), "{}, vector {}", what, i);
            }
            let some = rows / 3..rows - rows / 4;
            let part = multiply(level, &matrix, some.clone(), &x);
            for (i, (&part, &all)) in part.iter().zip(&out).enumerate() {
                let expected = if some.contains(&(i % rows)) { all.to_bits() } else { f32::NAN.to_bits() };
                prop_assert_eq!(part.to_bits(), expected, "{}, rows {:?}, value {}", what, some, i);
            }
            // All levels multiply and add floats in one rounding, but for the portable one of x86-64.
            let fuses = level != Level::Portable || cfg!(target_arch = "aarch64");
            if matrix.is_quantized() || fuses {
                let first = first.get_or_insert_with(|| bits(&out));
                prop_assert_eq!(&*first, &bits(&out), "{}", what);
            }
        }
    }
}

#[test]
fn large_products_equal_small_ones_on_any_number_of_threads() {
    for kind in KINDS {
        let (rows, columns, n) = (1030, 1536, 70);
        let owned = weights(kind, rows, columns, 7);
        let matrix = Matrix::new(owned.weights(), rows, columns).unwrap();
        let x = vectors(n, columns, 7);
        let mut activations = Activations::new(&matrix);
        activations.set(&x);
        let alone = multiply(Level::best(), &matrix, 0..rows, &x[69 * columns..]);
        for n_threads in 1..=3 {
            let mut out = vec![f32::NAN; n * rows];
            multiply_parallel(&matrix, &activations, &mut out, n_threads).unwrap();
            assert_eq!(
                bits(&alone),
                bits(&out[69 * rows..]),
                "{kind} on {n_threads}"
            );
            assert!(out.iter().all(|value| value.is_finite()));
        }
        assert_near(&matrix, &x[69 * columns..], &alone, kind);
    }
}

/// One value differs by up to 1/254 of the largest; their errors partly cancel out.
#[test]
fn blocks_are_within_one_percent_of_the_definition() {
    for kind in ["q8_0", "q4_0"] {
        let (rows, columns) = (256, 768);
        let owned = weights(kind, rows, columns, 3);
        let matrix = Matrix::new(owned.weights(), rows, columns).unwrap();
        let x = vectors(1, columns, 3);
        let expected = naive::multiply(&matrix, &x);
        let out = multiply(Level::best(), &matrix, 0..rows, &x);
        let square =
            |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
        let error = square(&mut out.iter().zip(&expected).map(|(&a, b)| f64::from(a) - b));
        let relative = error / square(&mut expected.iter().copied());
        assert!((1e-4..1e-2).contains(&relative), "{kind}: {relative}");
    }
}

#[test]
fn values_that_are_not_finite_stay_in_their_vector() {
    for kind in KINDS {
        let owned = weights(kind, 33, 96, 5);
        let matrix = Matrix::new(owned.weights(), 33, 96).unwrap();
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut x = vectors(3, 96, 5);
            x[96 + 40] = bad;
            for &level in Level::available() {
                let out = multiply(level, &matrix, 0..33, &x);
                let finite: Vec<bool> = out.iter().map(|value| value.is_finite()).collect();
                let expected: Vec<bool> = (0..99).map(|i| i / 33 != 1).collect();
                assert_eq!(finite, expected, "{level:?} {kind} {bad}");
            }
        }
    }
}

#[test]
fn scales_may_be_subnormal_zero_huge_or_nan() {
    // 6e-8, 0, -0, 65504, -1, 6.1e-5 and its subnormal neighbour
    for scale in [0x0001u16, 0, 0x8000, 0x7bff, 0xbc00, 0x0400, 0x03ff] {
        for factor in [0.0, 1e-44, 1e-36, 1e-30, 1.0, 1e28] {
            let mut block = scale.to_le_bytes().to_vec();
            block.extend((0..32).map(|i| (i * 8) as i8 as u8));
            let matrix = Matrix::new(Weights::Q8_0(&block), 1, 32).unwrap();
            let x: Vec<f32> = (0..32).map(|i| (i as f32 - 11.0) * factor).collect();
            let expected = naive::multiply(&matrix, &x)[0];
            let portable = multiply(Level::Portable, &matrix, 0..1, &x)[0];
            let error = (f64::from(portable) - expected).abs();
            // Blocks of values below 4e-37 count as zero.
            let bound = bounds(&matrix, &x)[0].max(32.0 * 128.0 * 65504.0 * 4e-37);
            assert!(
                error <= bound,
                "{scale:#x} {factor}: {portable} for {expected}"
            );
            for &level in Level::available() {
                let out = multiply(level, &matrix, 0..1, &x)[0];
                assert_eq!(
                    out.to_bits(),
                    portable.to_bits(),
                    "{level:?} {scale:#x} {factor}"
                );
            }
        }
    }
    for &level in Level::available() {
        let mut blocks = vec![1; 3 * 34];
        blocks[34..36].copy_from_slice(&0x7e00u16.to_le_bytes());
        let matrix = Matrix::new(Weights::Q8_0(&blocks), 3, 32).unwrap();
        let out = multiply(level, &matrix, 0..3, &[1.0; 32]);
        assert_eq!(
            [false, true, false],
            [0, 1, 2].map(|row: usize| out[row].is_nan()),
            "{level:?}"
        );
    }
}

#[test]
fn nothing_times_nothing_is_nothing() {
    for &level in Level::available() {
        for (kind, columns) in KINDS.map(|kind| (kind, 64)) {
            let owned = weights(kind, 5, columns, 1);
            let matrix = Matrix::new(owned.weights(), 5, columns).unwrap();
            assert!(multiply(level, &matrix, 0..5, &[]).is_empty());
            assert!(
                multiply(level, &matrix, 2..2, &[1.0; 64])
                    .iter()
                    .all(|value| value.is_nan())
            );
        }
        let empty = Matrix::new(Weights::Q8_0(&[]), 0, 64).unwrap();
        assert!(multiply(level, &empty, 0..0, &[1.0; 64]).is_empty());
        let no_columns = Matrix::new(Weights::F32(&[]), 3, 0).unwrap();
        assert!(multiply(level, &no_columns, 0..3, &[]).is_empty());
    }
}

#[test]
fn every_row_is_in_one_share() {
    for rows in [0, 1, 15, 16, 17, 768, 50257] {
        for parts in 1..9 {
            let shares: Vec<_> = (0..parts).map(|part| share(rows, part, parts)).collect();
            assert_eq!((shares[0].start, shares[parts - 1].end), (0, rows));
            assert!(shares.windows(2).all(|two| two[0].end == two[1].start));
        }
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let message = |result: Result<Matrix, Error>| result.unwrap_err().to_string();
    assert_eq!(
        message(Matrix::new(Weights::F32(&[0.0; 5]), 2, 3)),
        "the weights have 5 values: expected 6 for a matrix of 2 x 3"
    );
    assert_eq!(
        message(Matrix::new(Weights::Q4_0(&[0; 36]), 1, 32)),
        "the weights have 36 bytes: expected 18 for a matrix of 1 x 32"
    );
    assert_eq!(
        message(Matrix::new(Weights::Q8_0(&[0; 34]), 1, 33)),
        "the matrix has 33 columns: expected a multiple of 32, because the weights are in blocks of 32"
    );
    assert_eq!(
        message(Matrix::new(Weights::Q8_0(&[0; 34]), usize::MAX, 64)),
        format!(
            "the weights have 34 bytes: expected fewer for a matrix of {} x 64",
            usize::MAX
        )
    );
    let matrix = Matrix::new(Weights::F32(&[0.0; 6]), 2, 3).unwrap();
    let mut x = Activations::new(&matrix);
    x.set(&[0.0; 6]);
    let error = multiply_parallel(&matrix, &x, &mut [0.0; 5], 1).unwrap_err();
    assert_eq!(
        error.to_string(),
        "2 vectors of 3 values, and 5 values for the product: expected vectors of 3 for a matrix of 2 x 3"
    );
}
