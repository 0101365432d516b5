"""The checks: every op and option, beside PyTorch's op and the definition.

Where PyTorch has no such op, a function here is what a user would write in its place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from gptfast.bench.verify import SEED, Check, Result
from gptfast.ops import (
    attention,
    decode_attention,
    layer_norm,
    linear_cross_entropy,
    rms_norm,
    rotary,
)
from gptfast.ops.attention import attention_reference
from gptfast.ops.decode_attention import decode_attention_reference
from gptfast.ops.linear_cross_entropy import linear_cross_entropy_reference
from gptfast.ops.norm import layer_norm_reference, rms_norm_reference
from gptfast.ops.philox import dropout_mask
from gptfast.ops.rotary import rotary_frequencies, rotary_reference, rotary_tables

Shape: TypeAlias = tuple[int, ...]


def plain_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    dropout_p: float = 0.0,
) -> Tensor:
    """Causal attention in the inputs' own dtype, line by line."""
    T, S = q.shape[2], k.shape[2]
    logits = q @ k.mT * q.shape[-1] ** -0.5
    newest = torch.arange(S - T, S, device=q.device)
    mask = torch.arange(S, device=q.device) > newest[:, None]
    logits = logits.masked_fill(mask, float("-inf"))
    weights = logits.softmax(-1)
    if dropout_p > 0:
        seed = torch.randint(-(2**63), 2**63 - 1, (1,), device=q.device)
        B, H = q.shape[:2]
        kept = dropout_mask(seed, B, H, T, S, dropout_p)
        weights = weights * kept / (1 - dropout_p)
    out: Tensor = weights @ v
    return out


def plain_rotary(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """Rotary embedding in the inputs' own dtype."""
    cos, sin = (torch.cat((x, x), -1).to(q.dtype) for x in (cos, sin))

    def rotated(x: Tensor) -> Tensor:
        first, second = x.chunk(2, -1)
        return x * cos + torch.cat((-second, first), -1) * sin

    return rotated(q), rotated(k)


def plain_linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    softcap: float | None = None,
) -> Tensor:
    """Return the loss by PyTorch's linear and cross_entropy, all logits at once."""
    logits = F.linear(hidden, weight).float()
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    return F.cross_entropy(logits, targets)


# ---- the checks ----------------------------------------------------------------------------------


def checks(device: str, tiny: bool) -> Iterator[Check]:
    """Every op and feature; `tiny` shapes are for Triton's interpreter."""
    yield from _attention_checks(device, tiny)
    yield from _decode_checks(device, tiny)
    yield from _norm_checks(tiny)
    yield from _rotary_checks(device, tiny)
    yield from _loss_checks(device, tiny)


def _attention_checks(device: str, tiny: bool) -> Iterator[Check]:
    def check(title: str, q_shape: Shape, k_shape: Shape, **options: Any) -> Check:
        is_plain = "dropout_p" in options  # PyTorch's op drops other weights
        return Check(
            "attention",
            title,
            (q_shape, k_shape, k_shape),
            lambda *x: attention(*x, **options, backend="triton"),
            lambda *x: (
                plain_attention(*x, **options)
                if is_plain
                else attention(*x, **options, backend="torch")
            ),
            lambda *x: attention_reference(*x, **options),
        )

    sizes = (
        [(1, 1, 1, 33, 33, 16), (2, 2, 1, 5, 20, 24)]
        if tiny
        else [
            (2, 12, 12, 1024, 1024, 64),
            (1, 8, 2, 1000, 1000, 128),
            (1, 4, 4, 77, 512, 96),
            (1, 2, 2, 300, 300, 256),
            (1, 4, 4, 300, 300, 40),
            (4, 8, 8, 1, 700, 64),
            (2, 12, 4, 512, 512, 64),
        ]
    )
    for B, H, G, T, S, D in sizes:
        for causal in (True, False):
            title = f"{'causal' if causal else 'full'} B{B} H{H} G{G} T{T} S{S} D{D}"
            yield check(title, (B, H, T, D), (B, G, S, D), causal=causal)
    B, H, T, D = (1, 1, 20, 16) if tiny else (2, 4, 1000, 64)
    shape = (B, H, T, D)
    cuts = [0, T // 3, *range(T, B * T, T), B * T - 5, B * T]
    yield check("window", shape, shape, window=T // 5)
    yield check("window, full", shape, shape, window=T // 5, causal=False)
    yield check("documents", shape, shape, cu_seqlens=torch.tensor(cuts, device=device))
    yield check("dropout", shape, shape, dropout_p=0.2)

    def of_parts(function: Callable[..., Result]) -> Callable[..., Result]:
        return lambda qkv_BT3HD: function(*qkv_BT3HD.permute(2, 0, 3, 1, 4))

    yield Check(
        "attention",
        "views of a fused qkv",
        ((B, T, 3, H, D),),
        of_parts(lambda *x: attention(*x, backend="triton")),
        of_parts(lambda *x: attention(*x, backend="torch")),
        of_parts(attention_reference),
    )


def _decode_checks(device: str, tiny: bool) -> Iterator[Check]:
    S = 40 if tiny else 8192
    lengths = torch.tensor([5, S // 2, S], device=device)
    for H, G, T, D in (
        [(4, 2, 1, 16)] if tiny else [(12, 12, 1, 64), (32, 8, 1, 128), (8, 2, 4, 96)]
    ):
        yield Check(
            "decode_attention",
            f"H{H} G{G} T{T} S{S} D{D}",
            ((3, H, T, D), (3, G, S, D), (3, G, S, D)),
            lambda q, k, v: decode_attention(q, k, v, lengths, backend="triton"),
            lambda q, k, v: decode_attention(q, k, v, lengths, backend="torch"),
            lambda q, k, v: decode_attention_reference(q, k, v, lengths),
            has_gradient=False,
        )


def _norm_checks(tiny: bool) -> Iterator[Check]:
    # One channel has gradients of 0 and nothing but rounding: the kernel tests have that case.
    shapes = (
        [(3, 5), (5, 70)] if tiny else [(8192, 768), (3, 5), (100, 1025), (9, 16_384), (17, 65_536)]
    )
    for M, C in shapes:
        yield Check(
            "layer_norm",
            f"{M} x {C}",
            ((M, C), (C,), (C,)),
            lambda *x: layer_norm(*x, backend="triton"),
            lambda *x: layer_norm(*x, backend="torch"),
            layer_norm_reference,
        )
        yield Check(
            "rms_norm",
            f"{M} x {C}",
            ((M, C), (C,)),
            lambda *x: rms_norm(*x, backend="triton"),
            lambda *x: rms_norm(*x, backend="torch"),
            rms_norm_reference,
        )


def _rotary_checks(device: str, tiny: bool) -> Iterator[Check]:
    B, T, D = (1, 5, 16) if tiny else (2, 1000, 128)
    cos, sin = rotary_tables(torch.arange(T, device=device), rotary_frequencies(D))
    yield Check(
        "rotary",
        f"T{T} D{D}",
        ((B, 8, T, D), (B, 2, T, D)),
        lambda q, k: rotary(q, k, cos, sin, backend="triton"),
        lambda q, k: plain_rotary(q, k, cos, sin),
        lambda q, k: rotary_reference(q, k, cos, sin),
    )


def _loss_checks(device: str, tiny: bool) -> Iterator[Check]:
    def check(M: int, V: int, C: int, title: str, **options: Any) -> Check:
        generator = torch.Generator(device).manual_seed(SEED)
        targets = torch.randint(V, (M,), device=device, generator=generator)
        targets[::3] = -100
        return Check(
            "linear_cross_entropy",
            f"M{M} V{V} C{C}{title}",
            ((M, C), (V, C)),
            lambda h, w: linear_cross_entropy(h, w, targets, backend="triton", **options),
            lambda h, w: plain_linear_cross_entropy(h, w, targets, **options),
            lambda h, w: linear_cross_entropy_reference(h, w, targets, **options),
            scales=(1.0, C**-0.5),
        )

    for sizes in [(20, 130, 16)] if tiny else [(4096, 50_304, 768), (77, 50_257, 128), (5, 3, 8)]:
        yield check(*sizes, "")
        yield check(*sizes, ", soft cap", softcap=5.0)
