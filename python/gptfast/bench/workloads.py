"""What is measured: for each op the sizes, our kernel and its peers, and the work of one call.

Work counts what the formula needs, whoever computes it: floating-point operations of the matrix
products (of causal attention, half of the logits; the backward has two and a half times as many as
the forward: "FlashAttention-2", Dao 2023, section 4.1), or bytes read and written once.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import partial

import torch.nn.functional as F
from torch import Tensor
from torch._functorch import config as functorch_config
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from gptfast.bench.cases import (
    Case,
    Implementation,
    Setting,
    attention_case,
    decode_attention_case,
    linear_cross_entropy_case,
    norm_cases,
    rotary_case,
)
from gptfast.bench.checks import plain_linear_cross_entropy, plain_rotary
from gptfast.bench.verify import Result

OURS = "gptfast"
COPY = "copy"


class Pass(Enum):
    """Which part of an op a call runs. The backward is measured on a graph that is kept."""

    FORWARD = "forward"
    BACKWARD = "backward"
    BOTH = "forward + backward"


@dataclass(frozen=True)
class Workload:
    """One shape of one op."""

    op: str
    title: str
    passes: Pass
    make_inputs: Callable[[], list[Tensor]]
    implementations: dict[str, Implementation]
    """Functions of the inputs by the names they have in the tables; ours first.

    The first peer that runs is what the others are compared with.
    """
    work: float
    unit: str
    """What `work` per second is shown in: "TFLOP/s" or "GB/s"."""
    targets: dict[str, float] = field(default_factory=dict)
    """How many times a peer's speed ours is to reach at least."""
    memory_targets: dict[str, float] = field(default_factory=dict)
    """The largest share of a peer's peak memory that ours may take."""


def workloads(setting: Setting) -> Iterator[Workload]:
    """Everything that `gptfast bench gpu` measures, first the copy that norms are compared with.

    The ops take turns, the most usual shapes first, so that little is lost where time is short.
    Nothing is allocated before `make_inputs`.
    """
    yield _copy(setting)
    kinds = (_attention, _norms, _losses, _decoding, _rotary)
    for turn in itertools.zip_longest(*(kind(setting) for kind in kinds)):
        yield from (workload for workload in turn if workload is not None)


def _beside(
    case: Case,
    peers: Mapping[str, Implementation],
    setting: Setting,
    passes: Pass,
    work: float,
    unit: str,
    targets: dict[str, float],
    memory_targets: dict[str, float] | None = None,
) -> Workload:
    """Set our kernel beside its peers. All but decoding is measured as it runs in training."""
    return Workload(
        case.op,
        case.title,
        passes,
        lambda: case.make_inputs(setting, case.op != "decode_attention"),
        {OURS: partial(case.call, backend="triton"), **peers},
        work,
        unit,
        targets,
        memory_targets or {},
    )


def _copy(setting: Setting) -> Workload:
    n = 1024 if setting.tiny else 2**29
    itemsize = setting.dtype.itemsize
    return Workload(
        "copy",
        f"{n * itemsize / 2**30:.3g} GiB",
        Pass.FORWARD,
        lambda: [setting.randn(n, training=False) for _ in range(2)],
        {COPY: lambda source, target: target.copy_(source)},
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


@functools.lru_cache(maxsize=1)
def _causal_blocks(T: int, device: str) -> BlockMask:
    return create_block_mask(
        lambda b, h, query, key: query >= key, None, None, T, T, device=device
    )  # fmt: skip


def _flex(setting: Setting) -> Implementation:
    compiled = setting.compiled(flex_attention)
    # Its backward can be called again on the same graph.
    functorch_config.donated_buffer = False

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Result:
        return compiled(q, k, v, block_mask=_causal_blocks(q.shape[2], setting.device))

    return attend


def _attention(setting: Setting) -> Iterator[Workload]:
    cudnn_and_flash = {"FlashAttention-2": 1.0, "cuDNN": 1.0}
    if setting.tiny:
        cases = [(1, 2, 20, 16, Pass.BOTH, cudnn_and_flash)]
    else:
        cases = [(16, 12, 1024, 64, Pass.BOTH, cudnn_and_flash)]
        for T in (8192, 2048, 4096, 16_384):
            for D in (64, 128):
                # 16,384 tokens and 2,048 channels in all, as the papers have it.
                size = (16_384 // T, 2048 // D, T, D)
                cases.append((*size, Pass.FORWARD, {"FlashAttention-2": 1.0, "cuDNN": 0.9}))
                flash = {"FlashAttention-2": 1.0} if D == 64 else {}
                cases.append((*size, Pass.BACKWARD, {**flash, "cuDNN": 0.8}))
    for B, H, T, D, passes, targets in cases:
        forward = 2.0 * B * H * T * T * D
        factor = {Pass.FORWARD: 1.0, Pass.BACKWARD: 2.5, Pass.BOTH: 3.5}[passes]
        peers = {
            "FlashAttention-2": sdpa(SDPBackend.FLASH_ATTENTION),
            "cuDNN": sdpa(SDPBackend.CUDNN_ATTENTION),
            "efficient": sdpa(SDPBackend.EFFICIENT_ATTENTION),
        }
        if T <= 1024 or T == 8192:  # compiling it takes long
            peers["flex, compiled"] = _flex(setting)
        case = attention_case(B, H, T, D)
        yield _beside(case, peers, setting, passes, forward * factor, "TFLOP/s", targets)


def _decoding(setting: Setting) -> Iterator[Workload]:
    """One new token of each sequence against its cache. PyTorch chooses its kernel by itself."""

    def theirs(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, enable_gqa=q.shape[1] != k.shape[1])

    heads = [(4, 2, 16)] if setting.tiny else [(12, 12, 64), (32, 8, 128)]
    S = 40 if setting.tiny else 8192
    for H, G, D in heads:
        for B in (1, 2) if setting.tiny else (1, 8, 64):
            yield _beside(
                decode_attention_case(B, H, G, S, D),
                {"SDPA": theirs},
                setting,
                Pass.FORWARD,
                2.0 * B * G * S * D * setting.dtype.itemsize,
                "GB/s",
                {"SDPA": 1.0},
            )


# ---- norms, rotary, loss -------------------------------------------------------------------------


def _their_layer_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], weight, bias)


def _their_rms_norm(x: Tensor, weight: Tensor) -> Tensor:
    return F.rms_norm(x, x.shape[-1:], weight)


def _norms(setting: Setting) -> Iterator[Workload]:
    if setting.tiny:
        sizes = [(5, 70)]
    else:
        # Two that a GPT-2 has in training, where a kernel's start counts, and 1 GiB each.
        sizes = [(16_384, 768), (4096, 768)]
        sizes += [(2**29 // C, C) for C in (768, 4096, 1024, 2048, 8192, 16_384)]
    for M, C in sizes:
        size = M * C * setting.dtype.itemsize
        targets = {"PyTorch": 1.0, "PyTorch, compiled": 1.0}
        if size > 2**30 - C * setting.dtype.itemsize:  # in whole rows
            targets[COPY] = 0.85
        layer_norm, rms_norm = norm_cases(M, C)
        pairs: list[tuple[Case, Implementation]]
        pairs = [(layer_norm, _their_layer_norm), (rms_norm, _their_rms_norm)]
        for case, theirs in pairs:
            yield _beside(
                case,
                {"PyTorch": theirs, "PyTorch, compiled": setting.compiled(theirs)},
                setting,
                Pass.BOTH,
                5.0 * size,  # forward: x and out; backward: x, dout and dx
                "GB/s",
                targets,
            )


def _rotary(setting: Setting) -> Iterator[Workload]:
    B, H, G, T, D = (1, 2, 1, 5, 16) if setting.tiny else (8, 32, 8, 2048, 128)
    yield _beside(
        rotary_case(B, H, G, T, D),
        {"plain": plain_rotary, "plain, compiled": setting.compiled(plain_rotary)},
        setting,
        Pass.BOTH,
        4.0 * B * (H + G) * T * D * setting.dtype.itemsize,
        "GB/s",
        {"plain": 1.0, "plain, compiled": 1.0},
    )


def _losses(setting: Setting) -> Iterator[Workload]:
    M, V, C = (20, 130, 16) if setting.tiny else (16_384, 50_304, 768)
    case = linear_cross_entropy_case(M, V, C)
    yield _beside(
        case,
        {
            "plain": plain_linear_cross_entropy,
            "plain, compiled": setting.compiled(plain_linear_cross_entropy),
            "gptfast, torch backend": partial(case.call, backend="torch"),
        },
        setting,
        Pass.BOTH,
        6.0 * M * V * C,
        "TFLOP/s",
        {"plain, compiled": 1 / 1.1},
        memory_targets={"plain": 1 / 5},
    )
