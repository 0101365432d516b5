"""Keep PyTorch's bf16 matmul from killing the process on CPUs whose AMX is masked.

Some cloud machines advertise AMX in CPUID leaf 7 but hide the tile geometry (leaf 0x1D). oneDNN,
the library behind PyTorch's CPU matmul, believes leaf 7 and the first bf16 matmul dies with SIGILL.
Capping oneDNN's instruction set at AVX-512 avoids it; oneDNN reads the cap once, at its first use.
"""

from __future__ import annotations

import os

_VARIABLE = "ONEDNN_MAX_CPU_ISA"
_WITHOUT_AMX = "AVX512_CORE_FP16"

notice: str | None = None
"""What was changed in the environment and why, in one sentence; None if nothing was."""


def amx_is_masked() -> bool | None:
    """Whether this CPU advertises AMX but reports no tile geometry. None if it can't be known."""
    try:
        from gptfast import _rust
    except ImportError:  # the package also runs from a plain checkout, without the extension
        return None
    advertised, usable = _rust.amx_state()
    return advertised and not usable


def avoid_masked_amx() -> None:
    """Cap oneDNN's instruction set where AMX is masked, unless the user has set a cap already."""
    global notice
    if _VARIABLE not in os.environ and amx_is_masked():
        os.environ[_VARIABLE] = _WITHOUT_AMX
        notice = (
            f"this CPU advertises AMX but masks its tile geometry, which kills bf16 matmul: "
            f"{_VARIABLE}={_WITHOUT_AMX} was set"
        )
