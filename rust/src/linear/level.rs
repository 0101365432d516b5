//! Which instructions the processor has.

/// A set of instructions that can compute products.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// What every processor has.
    Portable,
    /// AVX-512 with F, BW, DQ, VL and VNNI, and FMA.
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Level {
    /// The fastest level that this processor has. The standard library caches what the processor has.
    pub fn best() -> Level {
        *Level::available().last().unwrap_or(&Level::Portable)
    }

    /// All levels that this processor has, slowest first.
    pub fn available() -> &'static [Level] {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512vnni")
        {
            return &[Level::Portable, Level::Avx512];
        }
        &[Level::Portable]
    }
}
