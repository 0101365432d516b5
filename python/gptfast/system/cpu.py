"""Keep PyTorch's bfloat16 matmul from crashing on CPUs whose AMX is masked.

Some cloud machines advertise AMX in CPUID leaf 7 but hide the tile geometry (leaf 0x1D). oneDNN,
the library behind PyTorch's CPU matmul, trusts leaf 7, and the first bfloat16 matmul dies with
SIGILL. A cap on oneDNN's instruction set at AVX-512 prevents that. oneDNN reads the cap once, when
it is first used.
"""

from __future__ import annotations

import os

_VARIABLE = "ONEDNN_MAX_CPU_ISA"
_WITHOUT_AMX = "AVX512_CORE_FP16"

notice: str | None = None
"""One sentence on what was changed in the environment and why; None if nothing was changed."""


def n_cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # macOS and Windows lack it
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def amx_is_masked() -> bool | None:
    """Return whether this CPU advertises AMX without tile geometry; None if that is unknown."""
    try:
        from gptfast import _rust
    except ImportError:  # a plain checkout runs without the extension
        return None
    advertised, usable = _rust.amx_state()
    return advertised and not usable


def avoid_masked_amx() -> None:
    """Cap oneDNN's instruction set if AMX is masked, unless the user has set a cap."""
    global notice
    if _VARIABLE not in os.environ and amx_is_masked():
        os.environ[_VARIABLE] = _WITHOUT_AMX
        notice = (
            f"this CPU advertises AMX but masks its tile geometry, which kills bf16 matmul: "
            f"{_VARIABLE}={_WITHOUT_AMX} was set"
        )
