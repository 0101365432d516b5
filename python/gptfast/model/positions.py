"""Rotary positions, and how to stretch them to contexts longer than the trained one.

Legend: T time, D head width, P = D / 2 channel pairs.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from gptfast.model.config import ModelConfig
from gptfast.model.constants import device_with_values, moved
from gptfast.model.kv_cache import NewTokens
from gptfast.ops.rotary import rotary_frequencies, rotary_tables

# YaRN counts how often a pair turns within the trained context. At least _YARN_FAST turns leave
# the pair unchanged, at most _YARN_SLOW stretch it fully, and a linear ramp lies between (section
# 3.2, with the values for Llama).
_YARN_FAST, _YARN_SLOW = 32.0, 1.0
# Llama 3.1 does the same with these turns (its high_freq_factor and low_freq_factor).
_LLAMA3_FAST, _LLAMA3_SLOW = 4.0, 1.0


class Rotation(nn.Module):
    """The cosines and sines of every position of the context, which stay float32.

    They are plain tensors, not buffers. A cast would round them, and `to_empty` or a model built on
    the meta device would leave them without values.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        with device_with_values():
            self.cos_TP, self.sin_TP = rotation(config)

    def forward(self, ids_BT: Tensor, cache: NewTokens | None = None) -> tuple[Tensor, Tensor]:
        """Return cos and sin of the positions of the ids, (T, P) each, which all rows share.

        cache: the ids' place in a cache; the result is then (B, T, P) each.
        """
        cos_TP, sin_TP = self.cos_TP.to(ids_BT.device), self.sin_TP.to(ids_BT.device)
        if cache is not None:
            return cos_TP[cache.position_BT], sin_TP[cache.position_BT]
        return cos_TP[: ids_BT.size(1)], sin_TP[: ids_BT.size(1)]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Rotation:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.cos_TP, self.sin_TP = moved(self.cos_TP, fn), moved(self.sin_TP, fn)
        return self


def rotation(config: ModelConfig) -> tuple[Tensor, Tensor]:
    """Return cos and sin for every position of the context, (block_size, P) each, float32.

    They are scaled by the second of `rotary_settings`.
    """
    frequencies_P, scale = rotary_settings(config)
    cos_TP, sin_TP = rotary_tables(torch.arange(config.block_size), frequencies_P)
    return cos_TP * scale, sin_TP * scale


def rotary_settings(config: ModelConfig) -> tuple[Tensor, float]:
    """Return the angle of each pair between adjacent positions, (P,) float64, and a scale.

    The scale multiplies queries and keys, so it scales the logits by its square.

    config.rope_scaling says how they are stretched. 'ntk' uses a larger base, which makes the
    slowest pair turn rope_factor times slower and keeps the fastest ("NTK-aware scaled RoPE",
    bloc97, 2023). 'yarn' is "YaRN" (Peng et al., 2023), 'llama3' is Llama 3.1's way (Grattafiori et
    al., 2024; the constants are in the published model's code).
    """
    D, theta, factor = config.head_width, config.rope_theta, config.rope_factor
    if config.rope_scaling == "ntk":
        theta *= factor ** (D / (D - 2)) if D > 2 else 1.0  # a single pair is the fastest one
    frequencies_P = rotary_frequencies(D, theta)
    if config.rope_scaling == "llama3":
        return llama3_frequencies(frequencies_P, factor, config.original_context), 1.0
    if config.rope_scaling != "yarn":
        return frequencies_P, 1.0
    temperature = 0.1 * math.log(factor) + 1  # YaRN, eq. 22
    return yarn_frequencies(frequencies_P, theta, factor, config.original_context), temperature


def llama3_frequencies(frequencies_P: Tensor, factor: float, trained_context: int) -> Tensor:
    """Divide slow frequencies by `factor`, keep fast ones, and blend between by their turns."""
    turns_P = frequencies_P * trained_context / (2 * math.pi)
    kept_P = ((turns_P - _LLAMA3_SLOW) / (_LLAMA3_FAST - _LLAMA3_SLOW)).clamp(0, 1)
    return frequencies_P * kept_P + frequencies_P / factor * (1 - kept_P)


def yarn_frequencies(
    frequencies_P: Tensor, theta: float, factor: float, trained_context: int
) -> Tensor:
    """Divide slow frequencies by `factor`, keep fast ones, and blend between (YaRN, eq. 20)."""
    D = 2 * len(frequencies_P)

    def pair_that_turns(times: float) -> float:
        """Return the fractional index of the pair with that many turns in the trained context."""
        return D * math.log(trained_context / (times * 2 * math.pi)) / (2 * math.log(theta))

    first = max(math.floor(pair_that_turns(_YARN_FAST)), 0)
    last = min(math.ceil(pair_that_turns(_YARN_SLOW)), D - 1)
    pairs_P = torch.arange(D // 2, dtype=torch.float64)
    stretched_P = ((pairs_P - first) / max(last - first, 0.001)).clamp(0, 1)
    return frequencies_P * (1 - stretched_P) + frequencies_P / factor * stretched_P
