//! Functions compiled several times, for the vector instructions of different CPUs.

use std::sync::LazyLock;

/// The widest vectors that a function can be compiled for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Vectors {
    /// AVX-512F, of 16 floats.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// AVX2 and FMA, of 8 floats.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// What every CPU of this architecture has, such as SSE2 or NEON.
    Base,
}

/// The widest vectors of this CPU.
pub static VECTORS: LazyLock<Vectors> = LazyLock::new(|| {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vl") {
            return Vectors::Avx512;
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            return Vectors::Avx2;
        }
    }
    Vectors::Base
});

/// Return `a * b + c`, rounded once where the CPU has an instruction for it.
///
/// Elsewhere `mul_add` would call a slow function.
#[inline(always)]
pub fn mul_add<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

/// Define functions that are compiled for all `Vectors`, of which each call takes the widest.
///
/// Their bodies are plain loops, which the compiler turns into vector instructions. `FMA` says whether
/// `mul_add` is an instruction.
macro_rules! vectorized {
    ($($(#[$attribute:meta])*
       $visible:vis fn $name:ident<const FMA: bool $(, $T:ident: $bound:path)?>(
           $($argument:ident: $type:ty),* $(,)?
       ) $(-> $out:ty)? $body:block)*) => {$(
        $(#[$attribute])*
        $visible fn $name$(<$T: $bound>)?($($argument: $type),*) $(-> $out)? {
            #[inline(always)]
            fn body<const FMA: bool $(, $T: $bound)?>($($argument: $type),*) $(-> $out)? $body

            #[cfg(target_arch = "x86_64")]
            {
                use $crate::decode::simd::{VECTORS, Vectors};

                #[target_feature(enable = "avx512f,avx512vl,avx2,fma")]
                fn avx512$(<$T: $bound>)?($($argument: $type),*) $(-> $out)? {
                    body::<true $(, $T)?>($($argument),*)
                }
                #[target_feature(enable = "avx2,fma")]
                fn avx2$(<$T: $bound>)?($($argument: $type),*) $(-> $out)? {
                    body::<true $(, $T)?>($($argument),*)
                }
                match *VECTORS {
                    // SAFETY: the CPU has these instructions.
                    Vectors::Avx512 => return unsafe { avx512($($argument),*) },
                    // SAFETY: the CPU has these instructions.
                    Vectors::Avx2 => return unsafe { avx2($($argument),*) },
                    Vectors::Base => {}
                }
            }
            body::<{ cfg!(target_arch = "aarch64") } $(, $T)?>($($argument),*)
        }
    )*};
}
pub(super) use vectorized;
