"""What is measured: for each op the shapes, our kernel and its peers, and the work of one call.

Work counts what the formula needs, whoever computes it: floating-point operations of the matrix
products (of causal attention, half of the logits; the backward has two and a half times as many as
the forward: "FlashAttention-2", Dao 2023, section 4.1), or bytes read and written once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from gptfast.bench.verify import plain_linear_cross_entropy, plain_rotary
from gptfast.ops import (
    attention,
    decode_attention,
    layer_norm,
    linear_cross_entropy,
    rms_norm,
    rotary,
)
from gptfast.ops.rotary import rotary_frequencies, rotary_tables

Result: TypeAlias = "Tensor | tuple[Tensor, ...]"
Implementation: TypeAlias = "Callable[..., Result]"

OURS = "gptfast"
COPY = "copy"


class Pass(Enum):
    """Which part of an op a call runs. The backward is measured on a graph that is kept."""

    FORWARD = "forward"
    BACKWARD = "backward"
    BOTH = "forward + backward"


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
class Workload:
    """One shape of one op."""

    op: str
    title: str
    passes: Pass
    make_inputs: Callable[[], list[Tensor]]
    implementations: dict[str, Implementation]
    """Functions of the inputs by the names they have in the tables; ours first."""
    work: float
    unit: str
    """What `work` per second is shown in: "TFLOP/s" or "GB/s"."""
    targets: dict[str, float] = field(default_factory=dict)
    """How many times a peer's speed ours is to reach at least."""
    memory_targets: dict[str, float] = field(default_factory=dict)
    """The largest share of a peer's peak memory that ours may take."""


def workloads(setting: Setting) -> Iterator[Workload]:
    """Everything that `gptfast bench gpu` measures, first the copy that norms are compared with."""
    yield _copy(setting)
    yield from _attention(setting)
    yield from _losses(setting)
    yield from _decoding(setting)
    yield from _norms(setting)
    yield from _rotary(setting)


def _copy(setting: Setting) -> Workload:
    n = 1024 if setting.tiny else 2**29
    itemsize = setting.dtype.itemsize
    target = torch.empty(n, device=setting.device, dtype=setting.dtype)
    return Workload(
        "copy",
        f"{n * itemsize / 2**30:.3g} GiB",
        Pass.FORWARD,
        lambda: [setting.randn(n, training=False)],
        {COPY: target.copy_},
        2.0 * n * itemsize,
        "GB/s",
    )


# ---- attention -----------------------------------------------------------------------------------


def sdpa(*backends: SDPBackend) -> Implementation:
    """Return PyTorch's causal attention, forced to one of these implementations."""

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        with sdpa_kernel(list(backends)):
            return F.scaled_dot_product_attention(q, k, v, is_causal=True)

    return attend


def _flex(T: int, setting: Setting) -> Implementation:
    mask = create_block_mask(
        lambda b, h, query, key: query >= key, None, None, T, T, device=setting.device
    )
    return setting.compiled(lambda q, k, v: flex_attention(q, k, v, block_mask=mask))


def _attention(setting: Setting) -> Iterator[Workload]:
    cudnn_and_flash = {"FlashAttention-2": 1.0, "cuDNN": 1.0}
    if setting.tiny:
        cases = [(1, 2, 40, 16, Pass.BOTH, cudnn_and_flash)]
    else:
        cases = [(16, 12, 1024, 64, Pass.BOTH, cudnn_and_flash)]
        for D in (64, 128):
            for T in (2048, 4096, 8192, 16_384):
                # 16,384 tokens and 2,048 channels in all, as the papers have it.
                size = (16_384 // T, 2048 // D, T, D)
                cases.append((*size, Pass.FORWARD, {"FlashAttention-2": 1.0, "cuDNN": 0.9}))
                flash = {"FlashAttention-2": 1.0} if D == 64 else {}
                cases.append((*size, Pass.BACKWARD, {**flash, "cuDNN": 0.8}))
    for B, H, T, D, passes, targets in cases:
        forward = 2.0 * B * H * T * T * D
        factor = {Pass.FORWARD: 1.0, Pass.BACKWARD: 2.5, Pass.BOTH: 3.5}[passes]
        shape = (B, H, T, D)
        yield Workload(
            "attention",
            f"causal D{D} B{B} H{H} T{T}",
            passes,
            lambda shape=shape: [setting.randn(*shape) for _ in range(3)],  # type: ignore[misc]
            {
                OURS: lambda *x: attention(*x, backend="triton"),
                "FlashAttention-2": sdpa(SDPBackend.FLASH_ATTENTION),
                "cuDNN": sdpa(SDPBackend.CUDNN_ATTENTION),
                "efficient": sdpa(SDPBackend.EFFICIENT_ATTENTION),
                "flex, compiled": _flex(T, setting),
            },
            forward * factor,
            "TFLOP/s",
            targets,
        )


def _decoding(setting: Setting) -> Iterator[Workload]:
    """One new token of each sequence against its cache. PyTorch chooses its kernel by itself."""

    def theirs(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, enable_gqa=q.shape[1] != k.shape[1])

    heads = [(4, 2, 16)] if setting.tiny else [(12, 12, 64), (32, 8, 128)]
    S = 150 if setting.tiny else 8192
    for H, G, D in heads:
        for B in (1, 2) if setting.tiny else (1, 8, 64):
            shapes = ((B, H, 1, D), (B, G, S, D), (B, G, S, D))
            yield Workload(
                "decode_attention",
                f"D{D} B{B} H{H} G{G}, {S} keys",
                Pass.FORWARD,
                lambda shapes=shapes: [setting.randn(*s, training=False) for s in shapes],  # type: ignore[misc]
                {
                    OURS: lambda *x: decode_attention(*x, backend="triton"),
                    "SDPA": theirs,
                },
                2.0 * B * G * S * D * setting.dtype.itemsize,
                "GB/s",
                {"SDPA": 1.0},
            )


# ---- norms, rotary, loss -------------------------------------------------------------------------


def _their_layer_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], weight, bias)


def _their_rms_norm(x: Tensor, weight: Tensor) -> Tensor:
    return F.rms_norm(x, x.shape[-1:], weight)


def _their_residual_norm(x: Tensor, weight: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
    summed = x + residual
    return F.rms_norm(summed, x.shape[-1:], weight), summed


def _norms(setting: Setting) -> Iterator[Workload]:
    if setting.tiny:
        sizes = [(5, 70)]
    else:
        # 1 GiB each, and two that a GPT-2 has in training: a kernel's start counts there.
        sizes = [(2**29 // C, C) for C in (768, 1024, 2048, 4096, 8192, 16_384)]
        sizes += [(4096, 768), (16_384, 768)]
    for M, C in sizes:
        size = M * C * setting.dtype.itemsize
        targets = {"PyTorch": 1.0, "PyTorch, compiled": 1.0}
        if size == 2**30:
            targets[COPY] = 0.85

        for op, title, shapes, ours, theirs, tensors in (
            # Forward: x and out. Backward: x, dout and dx; and what the sum adds to both.
            ("layer_norm", "", ((M, C), (C,), (C,)),
             lambda *x: layer_norm(*x, backend="triton"), _their_layer_norm, 5),
            ("rms_norm", "", ((M, C), (C,)),
             lambda x, weight: rms_norm(x, weight, eps=_EPS, backend="triton"), _their_rms_norm, 5),
            ("rms_norm", ", residual", ((M, C), (C,), (M, C)),
             lambda x, weight, r: rms_norm(x, weight, eps=_EPS, residual=r, backend="triton"),
             _their_residual_norm, 8),
        ):  # fmt: skip
            yield Workload(
                op,
                f"{M} x {C}{title}",
                Pass.BOTH,
                lambda shapes=shapes: [setting.randn(*s) for s in shapes],  # type: ignore[misc]
                {OURS: ours, "PyTorch": theirs, "PyTorch, compiled": setting.compiled(theirs)},
                float(tensors * size),
                "GB/s",
                targets,
            )


_EPS = torch.finfo(torch.float32).eps
"""F.rms_norm's own."""


def _rotary(setting: Setting) -> Iterator[Workload]:
    B, H, G, T, D = (1, 2, 1, 9, 16) if setting.tiny else (8, 32, 8, 2048, 128)
    cos, sin = rotary_tables(torch.arange(T, device=setting.device), rotary_frequencies(D))

    def theirs(q: Tensor, k: Tensor) -> Result:
        return plain_rotary(q, k, cos, sin)

    yield Workload(
        "rotary",
        f"D{D} B{B} H{H} G{G} T{T}",
        Pass.BOTH,
        lambda: [setting.randn(B, H, T, D), setting.randn(B, G, T, D)],
        {
            OURS: lambda q, k: rotary(q, k, cos, sin, backend="triton"),
            "plain": theirs,
            "plain, compiled": setting.compiled(theirs),
        },
        4.0 * B * (H + G) * T * D * setting.dtype.itemsize,
        "GB/s",
        {"plain": 1.0, "plain, compiled": 1.0},
    )


def _losses(setting: Setting) -> Iterator[Workload]:
    M, V, C = (300, 130, 16) if setting.tiny else (16_384, 50_304, 768)
    targets = torch.randint(V, (M,), device=setting.device)
    yield Workload(
        "linear_cross_entropy",
        f"{M} tokens x {V}, C{C}",
        Pass.BOTH,
        lambda: [setting.randn(M, C), setting.randn(V, C, scale=C**-0.5)],
        {
            OURS: lambda h, w: linear_cross_entropy(h, w, targets, backend="triton"),
            "gptfast, torch backend": lambda h, w: linear_cross_entropy(
                h, w, targets, backend="torch"
            ),
            "plain": lambda h, w: plain_linear_cross_entropy(h, w, targets),
            "plain, compiled": setting.compiled(
                lambda h, w: plain_linear_cross_entropy(h, w, targets)
            ),
        },
        6.0 * M * V * C,
        "TFLOP/s",
        targets={"plain, compiled": 1 / 1.1},
        memory_targets={"plain": 1 / 5},
    )
