"""The precision that `--dtype auto` chooses on a device."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

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

    On a GPU, this is a property of the hardware. On a CPU, products of both are timed, because some
    CPUs have bfloat16 instructions without a gain in speed. It takes a few products' time: where
    bfloat16 is emulated, one product is enough to tell.
    """
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return Precision("bfloat16", "this GPU has units for it")
        return Precision("float32", "this GPU has no units for bfloat16")
    if device.type != "cpu":
        return Precision("float32", f"bfloat16 is not tried on {device.type}")
    gain = _cpu_gain()
    measured = f"this CPU multiplies bfloat16 at {gain:.2g} times the speed of float32"
    return Precision("bfloat16" if gain >= _LEAST_GAIN else "float32", measured)


def _cpu_gain() -> float:
    """Return the speed of bfloat16 as a multiple of float32's, for a small model's product.

    Each is the fastest of up to five, in turns; bfloat16 that is far behind gets no second try.
    """
    shortest = {torch.float32: float("inf"), torch.bfloat16: float("inf")}
    for dtype in shortest:
        _seconds(dtype)  # the first product sets up its kernel
    for _ in range(5):
        for dtype in shortest:
            shortest[dtype] = min(shortest[dtype], _seconds(dtype))
        gain = shortest[torch.float32] / shortest[torch.bfloat16]
        if gain < 1 / 10:
            break
    return gain


def _seconds(dtype: torch.dtype) -> float:
    x, w = torch.ones(512, 384, dtype=dtype), torch.ones(384, 1536, dtype=dtype)
    start = time.perf_counter()
    torch.mm(x, w)
    return time.perf_counter() - start
