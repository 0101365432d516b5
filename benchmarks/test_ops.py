"""The ops, forward and backward: every backend that runs here, checked first."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from gptfast import ops
from gptfast.ops.rotary import rotary_frequencies, rotary_tables

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
BACKENDS = ["torch", "reference"] + (["triton"] if DEVICE == "cuda" else [])
B, H, T, D = 4, 12, 1024, 64


@pytest.mark.parametrize("backend", BACKENDS)
def test_attention(benchmark: Any, backend: str) -> None:
    generator = torch.Generator(DEVICE).manual_seed(0)
    q, k, v = (
        torch.randn(B, H, T, D, device=DEVICE, generator=generator, requires_grad=True)
        for _ in range(3)
    )
    expected = ops.attention(q, k, v, backend="reference")
    torch.testing.assert_close(ops.attention(q, k, v, backend=backend), expected)

    def forward_backward() -> float:
        out = ops.attention(q, k, v, backend=backend)
        (dq, _, _) = torch.autograd.grad(out.sum(), (q, k, v))
        return dq[0, 0, 0, 0].item()

    benchmark.extra_info.update(amount=B * T, unit="tokens")
    benchmark.pedantic(forward_backward, rounds=7, warmup_rounds=1)


def _sdpa(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, dropout_p: float) -> torch.Tensor:
    return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout_p, is_causal=True)


@pytest.mark.parametrize(
    ("attend", "dropout_p"),
    [(ops.attention, 0.2), (_sdpa, 0.2), (_sdpa, 0.0)],
    ids=["ours", "PyTorch", "PyTorch, no dropout"],
)
def test_attention_with_dropout(benchmark: Any, attend: Any, dropout_p: float) -> None:
    generator = torch.Generator(DEVICE).manual_seed(0)
    q, k, v = (
        torch.randn(64, 6, 256, 64, device=DEVICE, generator=generator, requires_grad=True)
        for _ in range(3)
    )
    # Dropout does not change the mean: over all outputs hardly any of the noise is left.
    plain = ops.attention(q, k, v.exp(), backend="reference").mean()
    torch.testing.assert_close(
        attend(q, k, v.exp(), dropout_p=dropout_p).mean(), plain, rtol=2e-3, atol=0
    )

    def forward_backward() -> float:
        out = attend(q, k, v, dropout_p=dropout_p)
        (dq, _, _) = torch.autograd.grad(out.sum(), (q, k, v))
        return dq[0, 0, 0, 0].item()

    benchmark.extra_info.update(amount=64 * 256, unit="tokens")
    benchmark.pedantic(forward_backward, rounds=5, warmup_rounds=1)


@pytest.mark.parametrize("backend", BACKENDS)
def test_decode_attention(benchmark: Any, backend: str) -> None:
    generator = torch.Generator(DEVICE).manual_seed(0)
    options: dict[str, Any] = {"device": DEVICE, "generator": generator}
    q = torch.randn(8, H, 1, D, **options)
    k, v = (torch.randn(8, H, 4 * T, D, **options) for _ in range(2))
    lengths = torch.arange(8, device=DEVICE) * 500 + 500
    expected = ops.decode_attention(q, k, v, lengths, backend="reference")
    actual = ops.decode_attention(q, k, v, lengths, backend=backend)
    torch.testing.assert_close(actual, expected)
    benchmark.extra_info.update(amount=8, unit="tokens")
    benchmark.pedantic(
        lambda: ops.decode_attention(q, k, v, lengths, backend=backend)[0, 0, 0, 0].item(),
        rounds=15,
        warmup_rounds=2,
    )


@pytest.mark.parametrize("backend", BACKENDS)
def test_layer_norm(benchmark: Any, backend: str) -> None:
    generator = torch.Generator(DEVICE).manual_seed(0)
    x = torch.randn(B * T, 768, device=DEVICE, generator=generator, requires_grad=True)
    weight = torch.ones(768, device=DEVICE, requires_grad=True)
    bias = torch.zeros(768, device=DEVICE, requires_grad=True)
    expected = ops.layer_norm(x, weight, bias, backend="reference")
    torch.testing.assert_close(ops.layer_norm(x, weight, bias, backend=backend), expected)

    def forward_backward() -> float:
        out = ops.layer_norm(x, weight, bias, backend=backend)
        (dx, _, _) = torch.autograd.grad(out.square().sum(), (x, weight, bias))
        return dx[0, 0].item()

    benchmark.extra_info.update(amount=B * T, unit="tokens")
    benchmark.pedantic(forward_backward, rounds=15, warmup_rounds=2)


@pytest.mark.parametrize("backend", BACKENDS)
def test_rms_norm(benchmark: Any, backend: str) -> None:
    generator = torch.Generator(DEVICE).manual_seed(0)
    x = torch.randn(B * T, 768, device=DEVICE, generator=generator, requires_grad=True)
    weight = torch.ones(768, device=DEVICE, requires_grad=True)
    expected = ops.rms_norm(x, weight, backend="reference")
    torch.testing.assert_close(ops.rms_norm(x, weight, backend=backend), expected)

    def forward_backward() -> float:
        out = ops.rms_norm(x, weight, backend=backend)
        (dx, _) = torch.autograd.grad(out, (x, weight), out)
        return dx[0, 0].item()

    benchmark.extra_info.update(amount=B * T, unit="tokens")
    benchmark.pedantic(forward_backward, rounds=15, warmup_rounds=2)


@pytest.mark.parametrize("backend", BACKENDS)
def test_linear_cross_entropy(benchmark: Any, backend: str) -> None:
    generator = torch.Generator(DEVICE).manual_seed(0)
    options: dict[str, Any] = {"device": DEVICE, "generator": generator}
    hidden = torch.randn(2 * T, 768, requires_grad=True, **options)
    weight = (torch.randn(50_304, 768, **options) * 0.02).requires_grad_()
    targets = torch.randint(50_304, (2 * T,), **options)
    expected = ops.linear_cross_entropy(hidden, weight, targets, backend="reference")
    actual = ops.linear_cross_entropy(hidden, weight, targets, backend=backend)
    torch.testing.assert_close(actual, expected)

    def forward_backward() -> float:
        loss = ops.linear_cross_entropy(hidden, weight, targets, backend=backend)
        (dhidden, _) = torch.autograd.grad(loss, (hidden, weight))
        return dhidden[0, 0].item()

    benchmark.extra_info.update(amount=2 * T, unit="tokens")
    benchmark.pedantic(forward_backward, rounds=3, warmup_rounds=1)


@pytest.mark.parametrize("backend", [name for name in BACKENDS if name != "torch"])
def test_rotary(benchmark: Any, backend: str) -> None:
    generator = torch.Generator(DEVICE).manual_seed(0)
    q, k = (
        torch.randn(B, H, T, D, device=DEVICE, generator=generator, requires_grad=True)
        for _ in range(2)
    )
    tables = rotary_tables(torch.arange(T, device=DEVICE), rotary_frequencies(D))
    expected = ops.rotary(q, k, *tables, backend="reference")
    torch.testing.assert_close(ops.rotary(q, k, *tables, backend=backend), expected)

    def forward_backward() -> float:
        rotated = ops.rotary(q, k, *tables, backend=backend)
        dq, _ = torch.autograd.grad(rotated, (q, k), (q, k))
        return dq[0, 0, 0, 0].item()

    benchmark.extra_info.update(amount=B * T, unit="tokens")
    benchmark.pedantic(forward_backward, rounds=15, warmup_rounds=2)
