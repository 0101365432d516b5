"""The precision that `--dtype auto` chooses on a device."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import Tensor

from gptfast.train.config import Dtype

_LEAST_GAIN = 1.3
"""Minimum speedup of bfloat16, because casts and float32 operations use up part of the gain."""


@dataclass(frozen=True)
class Precision:
    """A chosen precision and the reason."""

    dtype: Dtype
    reason: str


def resolve_dtype(device: torch.device) -> Precision:
    """Return bfloat16 if `device` multiplies it faster than float32, else float32.

    On a GPU, this is a property of the hardware. On a CPU, both are timed, which takes a tenth of a
    second: some CPUs have bfloat16 instructions without a gain in speed.
    """
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return Precision("bfloat16", "this GPU has units for it")
        return Precision("float32", "this GPU has no units for bfloat16")
    if device.type != "cpu":
        return Precision("float32", f"bfloat16 is not tried on {device.type}")
    float32, bfloat16 = (_seconds(dtype) for dtype in (torch.float32, torch.bfloat16))
    gain = float32 / bfloat16
    measured = f"this CPU multiplies bfloat16 at {gain:.1f} times the speed of float32"
    return Precision("bfloat16" if gain >= _LEAST_GAIN else "float32", measured)


def _seconds(dtype: torch.dtype) -> float:
    """Return the shortest time of a matrix product in `dtype`, sized like a small model's MLP."""
    x, w = torch.ones(2048, 384, dtype=dtype), torch.ones(384, 1536, dtype=dtype)
    return min(_timed(x, w) for _ in range(5))


def _timed(x: Tensor, w: Tensor) -> float:
    start = time.perf_counter()
    torch.mm(x, w)
    return time.perf_counter() - start
