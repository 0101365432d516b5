"""Attention and layer norm, forward and backward: every backend that runs here, checked first."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from gptfast import ops

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
