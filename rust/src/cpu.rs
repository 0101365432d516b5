//! Whether the CPU's matrix unit (AMX) is announced, and whether it can be used.

/// (AMX is announced, AMX's tiles have a geometry), from CPUID; (false, false) except on x86-64.
///
/// Some virtual machines announce AMX (leaf 7: EDX bit 22 amx-bf16, bit 24 amx-tile) but hide the
/// tiles (leaf 0x1D: the largest palette, then the shape of palette 1). Programs that believe the
/// first answer die of an illegal instruction. Source: Intel SDM volume 2A, CPUID.
#[cfg(target_arch = "x86_64")]
pub fn amx_state() -> (bool, bool) {
    use std::arch::x86_64::CpuidResult;

    let largest_leaf = cpuid(0, 0).eax;
    let advertised = largest_leaf >= 7 && cpuid(7, 0).edx & (1 << 22 | 1 << 24) != 0;
    let usable = largest_leaf >= 0x1d && cpuid(0x1d, 0).eax >= 1 && {
        let CpuidResult { eax, ebx, ecx, edx } = cpuid(0x1d, 1);
        eax | ebx | ecx | edx != 0
    };
    (advertised, usable)
}

// Newer Rust has made `__cpuid_count` a safe function, the oldest Rust we build with has not yet.
#[allow(unused_unsafe)]
#[cfg(target_arch = "x86_64")]
fn cpuid(leaf: u32, subleaf: u32) -> std::arch::x86_64::CpuidResult {
    // SAFETY: every x86-64 CPU has the instruction, and it only writes the four registers returned.
    unsafe { std::arch::x86_64::__cpuid_count(leaf, subleaf) }
}

/// (AMX is announced, AMX's tiles have a geometry): never, except on x86-64.
#[cfg(not(target_arch = "x86_64"))]
pub fn amx_state() -> (bool, bool) {
    (false, false)
}
