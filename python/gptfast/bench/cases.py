"""What is run to measure an op: a call and its inputs, for the report and for the rules alike.

The report (workloads.py) sets a case beside its peers, the rules (rules.py) one backend beside the
other. Each of them lists the sizes that it needs.

Legend: B batch, H query heads, G key heads, T queries, S keys, D head width; M tokens, C channels,
V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import torch
from torch import Tensor

from gptfast.bench.verify import Result
from gptfast.ops import (
    attention,
    decode_attention,
    layer_norm,
    linear_cross_entropy,
    rms_norm,
    rotary,
)
from gptfast.ops.attention import work as attention_work
from gptfast.ops.decode_attention import work as decode_attention_work
from gptfast.ops.linear_cross_entropy import work as linear_cross_entropy_work
from gptfast.ops.norm import work as norm_work
from gptfast.ops.rotary import rotary_frequencies, rotary_tables
from gptfast.ops.rotary import work as rotary_work
from gptfast.ops.rules import Work

Implementation: TypeAlias = "Callable[..., Result]"
Shape: TypeAlias = tuple[int, ...]

RMS_EPS = torch.finfo(torch.float32).eps
"""F.rms_norm's own."""


@dataclass(frozen=True)
class Setting:
    """Where and in what dtype everything runs."""

    device: str
    dtype: torch.dtype
    tiny: bool
    """Small shapes and no compilation, for a rehearsal in Triton's interpreter."""

    def randn(self, *shape: int, scale: float = 1.0, training: bool = True) -> Tensor:
        """Return random numbers, which need a gradient if `training`."""
        x = torch.randn(shape, device=self.device, dtype=self.dtype) * scale
        return x.requires_grad_(training)

    def compiled(self, function: Implementation) -> Implementation:
        """Return the function compiled for each shape anew."""
        return function if self.tiny else torch.compile(function, dynamic=False)


@dataclass(frozen=True)
class Case:
    """One op with inputs of one size."""

    op: str
    title: str
    call: Implementation
    """The op: `call(*inputs, backend=...)`."""
    make_inputs: Callable[[Setting, bool], list[Tensor]]
    """Allocates the inputs in a setting; the second argument: whether they need gradients."""
    work: Callable[..., Work]
    """What the rules call it: `work(*inputs)`."""


def attention_case(B: int, H: int, T: int, D: int, window: int | None = None) -> Case:
    """Causal attention of T queries with T keys."""
    return Case(
        "attention",
        f"causal D{D} B{B} H{H} T{T}{', window' if window else ''}",
        partial(attention, window=window),
        _random((B, H, T, D), (B, H, T, D), (B, H, T, D)),
        partial(attention_work, is_bounded=window is not None, dropout_p=0.0),
    )


def decode_attention_case(
    B: int, H: int, G: int, S: int, D: int, *, has_lengths: bool = False
) -> Case:
    """One new token of each sequence against its cache of S keys, or of S - 3 of them."""

    def make_inputs(setting: Setting, training: bool) -> list[Tensor]:
        inputs = _random((B, H, 1, D), (B, G, S, D), (B, G, S, D))(setting, training)
        lengths = torch.full((B,), S - 3, device=setting.device)
        return [*inputs, lengths] if has_lengths else inputs

    return Case(
        "decode_attention",
        f"D{D} B{B} H{H} G{G}, {S} keys{', lengths' if has_lengths else ''}",
        decode_attention,
        make_inputs,
        lambda q, k, v, lengths=None: decode_attention_work(q, k, lengths is not None),
    )


def norm_cases(M: int, C: int) -> tuple[Case, Case]:
    """Layer norm and RMS norm of M rows."""
    return (
        Case(
            "layer_norm",
            f"{M} x {C}",
            layer_norm,
            _random((M, C), (C,), (C,)),
            partial(norm_work, "layer_norm"),
        ),
        Case(
            "rms_norm",
            f"{M} x {C}",
            partial(rms_norm, eps=RMS_EPS),
            _random((M, C), (C,)),
            partial(norm_work, "rms_norm"),
        ),
    )


def rotary_case(B: int, H: int, G: int, T: int, D: int) -> Case:
    """Rotary embedding of queries and keys."""

    def make_inputs(setting: Setting, training: bool) -> list[Tensor]:
        positions = torch.arange(T, device=setting.device)
        tables = rotary_tables(positions, rotary_frequencies(D))
        return [*_random((B, H, T, D), (B, G, T, D))(setting, training), *tables]

    return Case(
        "rotary",
        f"D{D} B{B} H{H} G{G} T{T}",
        rotary,
        make_inputs,
        lambda q, k, cos, sin: rotary_work(q, k),
    )


def linear_cross_entropy_case(M: int, V: int, C: int) -> Case:
    """Return the case of the loss of M tokens."""

    def make_inputs(setting: Setting, training: bool) -> list[Tensor]:
        hidden = setting.randn(M, C, training=training)
        weight = setting.randn(V, C, scale=C**-0.5, training=training)
        return [hidden, weight, torch.randint(V, (M,), device=setting.device)]

    return Case(
        "linear_cross_entropy",
        f"{M} tokens x {V}, C{C}",
        linear_cross_entropy,
        make_inputs,
        lambda hidden, weight, targets: linear_cross_entropy_work(hidden, weight),
    )


def _random(*shapes: Shape) -> Callable[[Setting, bool], list[Tensor]]:
    return lambda setting, training: [setting.randn(*shape, training=training) for shape in shapes]
