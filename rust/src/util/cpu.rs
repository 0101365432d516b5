//! Whether the CPU advertises its matrix unit (AMX), and whether AMX can be used.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::CpuidResult;

/// Return (AMX is advertised, AMX is usable) by CPUID; (false, false) on other CPUs than x86-64.
///
/// Some virtual machines advertise AMX (leaf 7: EDX bit 22 amx-bf16, bit 24 amx-tile) but hide the
/// tiles (leaf 0x1D: the number of palettes, then the shape of palette 1). A program that trusts leaf 7
/// alone dies of an illegal instruction. Source: Intel SDM volume 2A, CPUID.
#[cfg(target_arch = "x86_64")]
pub fn amx_state() -> (bool, bool) {
    amx_state_by(cpuid)
}

#[cfg(target_arch = "x86_64")]
fn amx_state_by(cpuid: impl Fn(u32, u32) -> CpuidResult) -> (bool, bool) {
    let largest_leaf = cpuid(0, 0).eax;
    let advertised = largest_leaf >= 7 && cpuid(7, 0).edx & (1 << 22 | 1 << 24) != 0;
    let usable = largest_leaf >= 0x1d && cpuid(0x1d, 0).eax >= 1 && {
        let CpuidResult { eax, ebx, ecx, edx } = cpuid(0x1d, 1);
        eax | ebx | ecx | edx != 0
    };
    (advertised, usable)
}

// `__cpuid_count` is safe in newer Rust, but not in the oldest Rust that builds this crate.
#[allow(unused_unsafe)]
#[cfg(target_arch = "x86_64")]
fn cpuid(leaf: u32, subleaf: u32) -> CpuidResult {
    // SAFETY: every x86-64 CPU has this instruction, and it writes only the four registers returned.
    unsafe { std::arch::x86_64::__cpuid_count(leaf, subleaf) }
}

/// Return (false, false): only x86-64 has AMX.
#[cfg(not(target_arch = "x86_64"))]
pub fn amx_state() -> (bool, bool) {
    (false, false)
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;

    /// A CPU with `leaf_7_edx` in leaf 7, and `palettes` and `shape` in the two subleaves of leaf 0x1D.
    fn cpu(leaf_7_edx: u32, palettes: u32, shape: u32) -> impl Fn(u32, u32) -> CpuidResult {
        move |leaf, subleaf| {
            let (eax, edx) = match (leaf, subleaf) {
                (0, _) => (0x20, 0),
                (7, 0) => (0, leaf_7_edx),
                (0x1d, 0) => (palettes, 0),
                (0x1d, 1) => (shape, 0),
                _ => (0, 0),
            };
            CpuidResult {
                eax,
                ebx: 0,
                ecx: 0,
                edx,
            }
        }
    }

    #[test]
    fn masked_amx_is_advertised_but_has_no_tiles() {
        // Sapphire Rapids has one palette of 8 KiB (0x2000), in tiles of 1 KiB (0x400).
        let amx = 1 << 24 | 1 << 22;
        assert_eq!(amx_state_by(cpu(amx, 1, 0x0400_2000)), (true, true));
        assert_eq!(amx_state_by(cpu(amx, 0, 0)), (true, false));
        assert_eq!(amx_state_by(cpu(amx, 1, 0)), (true, false));
        assert_eq!(amx_state_by(cpu(0, 0, 0)), (false, false));
        // On a CPU too old for leaf 7, what leaf 7 returns means nothing.
        let old = |leaf, subleaf| match leaf {
            0 => CpuidResult {
                eax: 1,
                ..cpu(0, 0, 0)(0, 0)
            },
            _ => cpu(u32::MAX, 1, 1)(leaf, subleaf),
        };
        assert_eq!(amx_state_by(old), (false, false));
    }
}
