//! Norms and activations of the rows of a step.

use super::simd::{mul_add, vectorized};

/// Number of sums that a reduction keeps at once. It fixes the order of additions.
const LANES: usize = 16;

/// Return e^x to about 1e-7, relative. Numbers beyond float32's exponents give about 1e-38 and 3e38; NaN
/// stays NaN.
#[inline(always)]
pub fn exp<const FMA: bool>(x: f32) -> f32 {
    // 1.5 * 2^23: adding it rounds to an integer, which the low bits of the sum then hold.
    const ROUND: f32 = 12_582_912.0;
    // ln 2 as a sum, of which the first has few bits, so that its product with an integer is exact.
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    // Comparisons, unlike `clamp`'s minimum and maximum, let NaN through.
    let x = if x < -87.3 { -87.3 } else { x };
    let x = if x > 88.3 { 88.3 } else { x };
    let shifted = mul_add::<FMA>(x, std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let rest = mul_add::<FMA>(n, -LN_2_HIGH, x);
    let rest = mul_add::<FMA>(n, -LN_2_LOW, rest);
    // e^rest for |rest| <= ln 2 / 2, by its Taylor series up to rest^7: the next term is 5e-9 at most.
    let mut sum = 1.0 / 5040.0;
    for coefficient in [
        1.0 / 720.0,
        1.0 / 120.0,
        1.0 / 24.0,
        1.0 / 6.0,
        0.5,
        1.0,
        1.0,
    ] {
        sum = mul_add::<FMA>(sum, rest, coefficient);
    }
    // 2^n, built from its bits.
    let power = (shifted.to_bits() << 23).wrapping_add(1.0_f32.to_bits());
    sum * f32::from_bits(power)
}

/// Return tanh(x), to about 1e-7, absolute.
#[inline(always)]
fn tanh<const FMA: bool>(x: f32) -> f32 {
    1.0 - 2.0 / (exp::<FMA>(2.0 * x) + 1.0)
}

/// Return the error function of x, to about 2e-7, absolute.
///
/// Abramowitz and Stegun, "Handbook of Mathematical Functions" (1964), equation 7.1.26.
#[inline(always)]
fn erf<const FMA: bool>(x: f32) -> f32 {
    let t = 1.0 / mul_add::<FMA>(x.abs(), 0.327_591_1, 1.0);
    let mut sum = 1.061_405_4;
    for coefficient in [-1.453_152, 1.421_413_7, -0.284_496_74, 0.254_829_6] {
        sum = mul_add::<FMA>(sum, t, coefficient);
    }
    let value = 1.0 - sum * t * exp::<FMA>(-x * x);
    if x < 0.0 { -value } else { value }
}

/// Return the sum of `term` of all elements.
#[inline(always)]
fn sum(x: &[f32], term: impl Fn(f32) -> f32) -> f32 {
    let mut sums = [0.0; LANES];
    let chunks = x.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (sum, &x) in sums.iter_mut().zip(chunk) {
            *sum += term(x);
        }
    }
    for (sum, &x) in sums.iter_mut().zip(rest) {
        *sum += term(x);
    }
    sums.iter().sum()
}

vectorized! {
    /// Replace x by (x - mean) / sqrt(variance + eps) * weight + bias.
    pub fn layer_norm<const FMA: bool>(x: &mut [f32], weight: &[f32], bias: Option<&[f32]>, eps: f32) {
        let mean = sum(x, |x| x) / x.len() as f32;
        let variance = sum(x, |x| (x - mean) * (x - mean)) / x.len() as f32;
        let scale = 1.0 / (variance + eps).sqrt();
        for (x, &weight) in x.iter_mut().zip(weight) {
            *x = (*x - mean) * scale * weight;
        }
        add_if_any(x, bias);
    }

    /// Replace x by x / sqrt(mean of x^2 + eps) * weight.
    pub fn rms_norm<const FMA: bool>(x: &mut [f32], weight: &[f32], eps: f32) {
        let scale = 1.0 / (sum(x, |x| x * x) / x.len() as f32 + eps).sqrt();
        for (x, &weight) in x.iter_mut().zip(weight) {
            *x = *x * scale * weight;
        }
    }

    /// Replace x by GELU(x), in the tanh approximation of GPT-2 (Hendrycks and Gimpel, 2016).
    pub fn gelu<const FMA: bool>(x: &mut [f32]) {
        const SQRT_8_OVER_PI: f32 = 1.595_769;
        for x in x {
            // x (1 + tanh(u)) / 2 = x / (1 + e^(-2 u)), where u = sqrt(2 / pi) (x + 0.044715 x^3).
            let twice_u = SQRT_8_OVER_PI * mul_add::<FMA>(0.044_715 * *x * *x, *x, *x);
            *x /= 1.0 + exp::<FMA>(-twice_u);
        }
    }

    /// Replace x by GELU(x) = x times the normal distribution function of x.
    pub fn gelu_exact<const FMA: bool>(x: &mut [f32]) {
        for x in x {
            *x *= 0.5 * (1.0 + erf::<FMA>(*x * std::f32::consts::FRAC_1_SQRT_2));
        }
    }

    /// Replace x by max(x, 0)^2.
    pub fn relu2<const FMA: bool>(x: &mut [f32]) {
        for x in x {
            let positive = if *x < 0.0 { 0.0 } else { *x };
            *x = positive * positive;
        }
    }

    /// Replace `gate` by silu(gate) * value = gate / (1 + e^-gate) * value (Shazeer, 2020).
    pub fn swiglu<const FMA: bool>(gate: &mut [f32], value: &[f32]) {
        for (gate, &value) in gate.iter_mut().zip(value) {
            *gate = *gate / (1.0 + exp::<FMA>(-*gate)) * value;
        }
    }

    /// Replace x by cap * tanh(x / cap).
    pub fn soft_cap<const FMA: bool>(x: &mut [f32], cap: f32) {
        for x in x {
            *x = cap * tanh::<FMA>(*x / cap);
        }
    }

    /// Replace x by e^(x - max x); return the sum of the new values.
    pub fn exp_shifted<const FMA: bool>(x: &mut [f32]) -> f32 {
        // NaN is never larger, but gives a NaN below.
        let largest = x.iter().fold(f32::NEG_INFINITY, |a, &b| if b > a { b } else { a });
        for x in x.iter_mut() {
            *x = exp::<FMA>(*x - largest);
        }
        sum(x, |x| x)
    }
}

/// Rotate each pair of channels (p, p + P) by its angle, for P cosines and sines.
pub fn rotate(x: &mut [f32], cos: &[f32], sin: &[f32]) {
    let (first, second) = x.split_at_mut(cos.len());
    for (((x1, x2), cos), sin) in first.iter_mut().zip(second).zip(cos).zip(sin) {
        (*x1, *x2) = (*x1 * cos - *x2 * sin, *x2 * cos + *x1 * sin);
    }
}

/// Add `others` to x.
pub fn add(x: &mut [f32], others: &[f32]) {
    for (x, other) in x.iter_mut().zip(others) {
        *x += other;
    }
}

/// Add `others` times `scale` to x.
pub fn add_scaled(x: &mut [f32], others: &[f32], scale: f32) {
    for (x, other) in x.iter_mut().zip(others) {
        *x += other * scale;
    }
}

/// Add `others` to x, if there are any.
#[inline(always)]
pub fn add_if_any(x: &mut [f32], others: Option<&[f32]>) {
    if let Some(others) = others {
        add(x, others);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers() -> Vec<f32> {
        (-40_000..40_000).map(|i| i as f32 * 3.1e-4).collect()
    }

    /// Compare with float64, to `tolerance` times the value or 1, whichever is larger.
    fn compare(f: impl Fn(&mut [f32]), expected: impl Fn(f64) -> f64, tolerance: f64) {
        let x = numbers();
        let mut y = x.clone();
        f(&mut y);
        for (x, y) in x.into_iter().zip(y) {
            let expected = expected(f64::from(x));
            let error = (f64::from(y) - expected).abs();
            assert!(
                error <= tolerance * expected.abs().max(1.0),
                "{x}: {y} {expected}"
            );
        }
    }

    #[test]
    fn activations_agree_with_float64() {
        let root = (2.0 / std::f64::consts::PI).sqrt();
        let tanh_gelu = |x: f64| 0.5 * x * (1.0 + (root * (x + 0.044715 * x * x * x)).tanh());
        compare(gelu, tanh_gelu, 5e-7);
        compare(relu2, |x| x.max(0.0).powi(2), 2e-7);
        let silu = |x: f64| x / (1.0 + (-x).exp());
        compare(|x| swiglu(x, &vec![2.0; x.len()]), |x| 2.0 * silu(x), 5e-7);
        compare(|x| soft_cap(x, 5.0), |x| 5.0 * (x / 5.0).tanh(), 1e-6);
        compare(
            |x| x.iter_mut().for_each(|x| *x = exp::<false>(*x)),
            f64::exp,
            3e-7,
        );
    }

    #[test]
    fn the_error_function_has_known_values() {
        // Abramowitz and Stegun, table 7.1.
        for (x, expected) in [
            (0.0, 0.0),
            (0.5, 0.520_499_9),
            (1.0, 0.842_700_8),
            (2.0, 0.995_322_3),
        ] {
            assert!((erf::<false>(x) - expected).abs() < 3e-7);
            assert!((erf::<false>(-x) + expected).abs() < 3e-7);
        }
    }

    #[test]
    fn exp_keeps_what_is_not_a_number_and_bounds_the_rest() {
        assert!(exp::<false>(f32::NAN).is_nan());
        assert!(exp::<false>(f32::NEG_INFINITY) < 2e-38);
        assert!(exp::<false>(f32::INFINITY) > 1e38);
        let mut scores = [1.0, f32::NAN];
        assert!(exp_shifted(&mut scores).is_nan());
        let mut scores = [f32::INFINITY, 0.0];
        assert!(exp_shifted(&mut scores).is_nan());
    }

    #[test]
    fn norms_agree_with_float64() {
        for n in [1, 7, 16, 100] {
            let x: Vec<f32> = (0..n).map(|i| ((i * 37) % 11) as f32 - 3.5).collect();
            let wide: Vec<f64> = x.iter().map(|&x| f64::from(x)).collect();
            let mean = wide.iter().sum::<f64>() / n as f64;
            let variance = wide.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n as f64;
            let square = wide.iter().map(|x| x * x).sum::<f64>() / n as f64;
            let (weight, bias) = (vec![2.0; n], vec![0.5; n]);
            let mut normal = x.clone();
            layer_norm(&mut normal, &weight, Some(&bias), 1e-5);
            let mut rms = x.clone();
            rms_norm(&mut rms, &weight, 1e-5);
            for i in 0..n {
                let expected = (wide[i] - mean) / (variance + 1e-5).sqrt() * 2.0 + 0.5;
                assert!((f64::from(normal[i]) - expected).abs() < 1e-5);
                let expected = wide[i] / (square + 1e-5).sqrt() * 2.0;
                assert!((f64::from(rms[i]) - expected).abs() < 1e-5);
            }
        }
    }
}
