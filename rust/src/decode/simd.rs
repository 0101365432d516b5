//! Functions compiled several times, for the vector instructions of different CPUs.

#[cfg(target_arch = "x86_64")]
use std::sync::LazyLock;

#[cfg(target_arch = "x86_64")]
use crate::linear::Level;

/// The instructions that this CPU's functions use.
#[cfg(target_arch = "x86_64")]
pub static LEVEL: LazyLock<Level> = LazyLock::new(Level::best);

/// Return `a * b + c`, rounded once where the CPU has an instruction for it.
///
/// Elsewhere `mul_add` would call a slow function.
#[inline(always)]
pub fn mul_add<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

/// Define functions that are compiled for each `Level`, of which each call takes the best.
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
                use $crate::decode::simd::LEVEL;
                use $crate::linear::Level;

                #[target_feature(enable = "avx512f,avx512vl,avx2,fma")]
                fn avx512$(<$T: $bound>)?($($argument: $type),*) $(-> $out)? {
                    body::<true $(, $T)?>($($argument),*)
                }
                #[target_feature(enable = "avx2,fma")]
                fn avx2$(<$T: $bound>)?($($argument: $type),*) $(-> $out)? {
                    body::<true $(, $T)?>($($argument),*)
                }
                match *LEVEL {
                    // SAFETY: `Level::best` has asked the CPU for these instructions.
                    Level::Avx512 => return unsafe { avx512($($argument),*) },
                    // SAFETY: `Level::best` has asked the CPU for these instructions.
                    Level::Avx2 => return unsafe { avx2($($argument),*) },
                    Level::Portable => {}
                }
            }
            body::<{ cfg!(target_arch = "aarch64") } $(, $T)?>($($argument),*)
        }
    )*};
}
pub(super) use vectorized;
