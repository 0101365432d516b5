//! Attention of one new token to the keys and values of its past.

use super::math::exp_shifted;
use super::simd::{mul_add, vectorized};

/// A type in which keys, values and weights lie in memory.
pub trait Element: Copy {
    /// Return the value as float32, exactly.
    fn widen(self) -> f32;
    /// Return the nearest value of this type.
    fn narrow(value: f32) -> Self;
}

impl Element for f32 {
    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }

    #[inline(always)]
    fn narrow(value: f32) -> Self {
        value
    }
}

/// bfloat16: the upper half of a float32.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct Bf16(u16);

impl Element for Bf16 {
    #[inline(always)]
    fn widen(self) -> f32 {
        f32::from_bits(u32::from(self.0) << 16)
    }

    fn narrow(value: f32) -> Self {
        let bits = value.to_bits();
        if value.is_nan() {
            return Bf16((bits >> 16) as u16 | 0x40); // a NaN even if only lower bits said so
        }
        // Round to the nearest, ties to even.
        let up = 0x7fff + ((bits >> 16) & 1);
        Bf16((bits.wrapping_add(up) >> 16) as u16)
    }
}

/// Return softmax(q k^T * scale) v of one query.
///
/// Args:
///     query: D floats.
///     keys, values: the visible positions, D elements each, in two pieces of a ring, either of which may
///         be empty.
///     scores: memory that is used.
///     out: D floats that are overwritten.
pub fn attend<T: Element>(
    query: &[f32],
    keys: [&[T]; 2],
    values: [&[T]; 2],
    scale: f32,
    scores: &mut Vec<f32>,
    out: &mut [f32],
) {
    scores.clear();
    for keys in keys {
        append_scores(query, keys, scale, scores);
    }
    let sum = exp_shifted(scores);
    out.fill(0.0);
    let (first, second) = scores.split_at(values[0].len() / out.len());
    add_weighted(first, values[0], out);
    add_weighted(second, values[1], out);
    for out in out {
        *out /= sum;
    }
}

/// Channels that a product of a query and a key sums at once. It fixes the order of additions.
const LANES: usize = 16;

/// Positions whose values are added at once.
const POSITIONS: usize = 4;

/// Return the sum, added by halves.
#[inline(always)]
fn total(sums: &[f32; LANES]) -> f32 {
    let sums: [f32; 8] = std::array::from_fn(|i| sums[i] + sums[i + 8]);
    let sums: [f32; 4] = std::array::from_fn(|i| sums[i] + sums[i + 4]);
    (sums[0] + sums[2]) + (sums[1] + sums[3])
}

vectorized! {
    /// Append the scaled product of the query with each key.
    fn append_scores<const FMA: bool, T: Element>(query: &[f32], keys: &[T], scale: f32, scores: &mut Vec<f32>) {
        for key in keys.chunks_exact(query.len()) {
            let mut sums = [0.0; LANES];
            let (query_chunks, key_chunks) = (query.chunks_exact(LANES), key.chunks_exact(LANES));
            let (query_rest, key_rest) = (query_chunks.remainder(), key_chunks.remainder());
            for (query, key) in query_chunks.zip(key_chunks) {
                for lane in 0..LANES {
                    sums[lane] = mul_add::<FMA>(query[lane], key[lane].widen(), sums[lane]);
                }
            }
            for ((sum, &query), key) in sums.iter_mut().zip(query_rest).zip(key_rest) {
                *sum = mul_add::<FMA>(query, key.widen(), *sum);
            }
            scores.push(total(&sums) * scale);
        }
    }

    /// Add the values, each times its weight.
    fn add_weighted<const FMA: bool, T: Element>(weights: &[f32], values: &[T], out: &mut [f32]) {
        let width = out.len();
        let (weight_chunks, value_chunks) = (weights.chunks_exact(POSITIONS), values.chunks_exact(POSITIONS * width));
        let (weight_rest, value_rest) = (weight_chunks.remainder(), value_chunks.remainder());
        for (weights, values) in weight_chunks.zip(value_chunks) {
            let (v0, rest) = values.split_at(width);
            let (v1, rest) = rest.split_at(width);
            let (v2, v3) = rest.split_at(width);
            for ((((out, v0), v1), v2), v3) in out.iter_mut().zip(v0).zip(v1).zip(v2).zip(v3) {
                let sum = mul_add::<FMA>(weights[0], v0.widen(), *out);
                let sum = mul_add::<FMA>(weights[1], v1.widen(), sum);
                let sum = mul_add::<FMA>(weights[2], v2.widen(), sum);
                *out = mul_add::<FMA>(weights[3], v3.widen(), sum);
            }
        }
        for (&weight, value) in weight_rest.iter().zip(value_rest.chunks_exact(width)) {
            for (out, value) in out.iter_mut().zip(value) {
                *out = mul_add::<FMA>(weight, value.widen(), *out);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bfloat16_rounds_to_the_nearest_ties_to_even() {
        let round = |bits: u32| Bf16::narrow(f32::from_bits(bits)).0;
        assert_eq!(round(0x3f80_7fff), 0x3f80);
        assert_eq!(round(0x3f80_8000), 0x3f80);
        assert_eq!(round(0x3f80_8001), 0x3f81);
        assert_eq!(round(0x3f81_8000), 0x3f82);
        assert_eq!(round(0x7f7f_ffff), 0x7f80); // the largest float32 is beyond the largest bfloat16
        assert!(Bf16::narrow(f32::from_bits(0x7f80_0001)).widen().is_nan());
        assert_eq!(Bf16::narrow(-1.5).widen(), -1.5);
    }

    #[test]
    fn attention_agrees_with_float64_however_the_ring_is_cut() {
        for (width, n) in [(5, 1), (16, 9), (64, 37), (20, 8)] {
            let number = |i: usize| ((i * 7919) % 101) as f32 / 50.0 - 1.0;
            let query: Vec<f32> = (0..width).map(number).collect();
            let keys: Vec<f32> = (0..n * width).map(|i| number(i + 3)).collect();
            let values: Vec<f32> = (0..n * width).map(|i| number(i + 11)).collect();
            let dot = |key: &[f32]| -> f64 {
                let products = query
                    .iter()
                    .zip(key)
                    .map(|(&q, &k)| f64::from(q) * f64::from(k));
                products.sum::<f64>() * 0.3
            };
            let weights: Vec<f64> = keys.chunks(width).map(|key| dot(key).exp()).collect();
            let sum: f64 = weights.iter().sum();
            for cut in [0, n / 2, n] {
                let (k, v) = (keys.split_at(cut * width), values.split_at(cut * width));
                let mut out = vec![f32::NAN; width];
                attend(
                    &query,
                    [k.0, k.1],
                    [v.0, v.1],
                    0.3,
                    &mut Vec::new(),
                    &mut out,
                );
                for (d, &out) in out.iter().enumerate() {
                    let value = |t: usize| f64::from(values[t * width + d]);
                    let expected = (0..n).map(|t| weights[t] * value(t)).sum::<f64>() / sum;
                    assert!((f64::from(out) - expected).abs() < 1e-6, "{out} {expected}");
                }
            }
        }
    }
}
