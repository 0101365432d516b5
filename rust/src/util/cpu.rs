//! Whether the CPU's matrix unit (AMX) is announced, and whether it can be used.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::CpuidResult;

/// (AMX is announced, AMX's tiles have a geometry), from CPUID; (false, false) except on x86-64.
///
/// Some virtual machines announce AMX (leaf 7: EDX bit 22 amx-bf16, bit 24 amx-tile) but hide the
/// tiles (leaf 0x1D: the largest palette, then the shape of palette 1). Programs that believe the
/// first answer die of an illegal instruction. Source: Intel SDM volume 2A, CPUID.
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

// Newer Rust has made `__cpuid_count` a safe function, the oldest Rust we build with has not yet.
#[allow(unused_unsafe)]
#[cfg(target_arch = "x86_64")]
fn cpuid(leaf: u32, subleaf: u32) -> CpuidResult {
    // SAFETY: every x86-64 CPU has the instruction, and it only writes the four registers returned.
    unsafe { std::arch::x86_64::__cpuid_count(leaf, subleaf) }
}

/// (AMX is announced, AMX's tiles have a geometry): never, except on x86-64.
#[cfg(not(target_arch = "x86_64"))]
pub fn amx_state() -> (bool, bool) {
    (false, false)
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;

    /// A CPU whose leaf 7 has `leaf_7_edx`, and leaf 0x1D's two subleaves `palettes` and `shape`.
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
    fn a_masked_amx_is_announced_but_has_no_tiles() {
        // Sapphire Rapids: one palette of 8 KiB (0x2000) in tiles of 1 KiB (0x400).
        let amx = 1 << 24 | 1 << 22;
        assert_eq!(amx_state_by(cpu(amx, 1, 0x0400_2000)), (true, true));
        assert_eq!(amx_state_by(cpu(amx, 0, 0)), (true, false));
        assert_eq!(amx_state_by(cpu(amx, 1, 0)), (true, false));
        assert_eq!(amx_state_by(cpu(0, 0, 0)), (false, false));
        // A CPU so old that leaf 7 doesn't exist: whatever stands there means nothing.
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
