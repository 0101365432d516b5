//! Which instructions the processor has.

/// A set of instructions that can compute products.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// What every processor has.
    Portable,
    /// AVX2 with FMA and F16C.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// AVX-512 with F, BW, DQ, VL and VNNI.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// NEON with the dot products of bytes that ARMv8.2 has.
    #[cfg(target_arch = "aarch64")]
    Neon,
}

impl Level {
    /// The fastest level that this processor has. The standard library caches what the processor has.
    pub fn best() -> Level {
        *Level::available().last().unwrap_or(&Level::Portable)
    }

    /// All levels that this processor has, slowest first.
    pub fn available() -> &'static [Level] {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c")
        {
            // Require AVX2 for AVX-512 too: a virtual machine may advertise AVX-512 alone.
            if is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512vnni")
            {
                return &[Level::Portable, Level::Avx2, Level::Avx512];
            }
            return &[Level::Portable, Level::Avx2];
        }
        #[cfg(target_arch = "aarch64")]
        if std::arch::is_aarch64_feature_detected!("dotprod") {
            return &[Level::Portable, Level::Neon];
        }
        &[Level::Portable]
    }
}
