"""The checks of `gptfast bench` find what is wrong."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from gptfast.bench.checks import plain_attention, plain_linear_cross_entropy, plain_rotary
from gptfast.bench.verify import Check, verify
from gptfast.ops.attention import attention_reference
from gptfast.ops.linear_cross_entropy import linear_cross_entropy_reference
from gptfast.ops.rotary import rotary_frequencies, rotary_reference, rotary_tables


def check(ours: Callable[..., Any]) -> Check:
    return Check("gelu", "one", ((50, 3),), ours, F.gelu, lambda x: F.gelu(x.double()))


class WrongGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        return F.gelu(x)

    @staticmethod
    def backward(ctx: Any, *douts: torch.Tensor) -> torch.Tensor:
        (x,) = ctx.saved_tensors
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            (dx,) = torch.autograd.grad(F.gelu(x), x, douts[0])
        return dx * 1.01


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_same_op_is_right(dtype: torch.dtype) -> None:
    verdict = verify(check(F.gelu), dtype, "cpu")
    assert verdict.is_right
    assert verdict.ratio <= 0.5
    assert set(verdict.errors) == {"result 0", "gradient 0"}


@pytest.mark.parametrize(
    "wrong",
    [
        lambda x: F.gelu(x) * 1.01,
        lambda x: F.gelu(x).double(),
        lambda x: torch.where(x > 1, float("nan"), F.gelu(x)),
        lambda x: F.gelu(x) + torch.cat((torch.zeros(49, 3), torch.full((1, 3), 1e-4))),
        WrongGradient.apply,
    ],
    ids=["scaled", "another dtype", "NaN", "one row", "gradient"],
)
def test_what_is_wrong_is_found(wrong: Callable[..., Any]) -> None:
    verdict = verify(check(wrong), torch.float32, "cpu")
    assert not verdict.is_right


def test_nan_and_what_is_raised_are_an_infinite_error_with_a_reason() -> None:
    def raises(x: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("no kernel\nand more")

    verdict = verify(check(raises), torch.float32, "cpu")
    assert (verdict.is_right, verdict.ratio) == (False, math.inf)
    assert verdict.reason == "RuntimeError: no kernel"
    verdict = verify(check(lambda x: F.gelu(x) * float("nan")), torch.float32, "cpu")
    assert (verdict.is_right, verdict.ratio) == (False, math.inf)


def test_other_bits_the_second_time_are_found() -> None:
    calls = []

    def changes(x: torch.Tensor) -> torch.Tensor:
        calls.append(x)
        return F.gelu(x) + (1e-7 if len(calls) == 2 else 0)

    verdict = verify(check(changes), torch.float32, "cpu")
    assert not verdict.is_right
    assert verdict.reason == "result 0 has other bits when computed again"


def randn(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def test_what_a_user_would_write_is_the_definition_in_float64() -> None:
    q, k, v = randn(2, 3, 5, 8), randn(2, 3, 9, 8), randn(2, 3, 9, 8) + 1
    for options in ({}, {"dropout_p": 0.3}):
        torch.manual_seed(5)
        ours = plain_attention(q, k, v, **options)
        torch.manual_seed(5)
        torch.testing.assert_close(ours, attention_reference(q, k, v, **options))

    tables = rotary_tables(torch.arange(5), rotary_frequencies(8))
    torch.testing.assert_close(
        plain_rotary(q, k[:, :, :5], *tables), rotary_reference(q, k[:, :, :5], *tables)
    )

    hidden, weight = randn(12, 4), randn(7, 4)
    targets = torch.tensor([0, 6, -100, 3] * 3)
    for options in ({}, {"softcap": 3.0}):
        # This one computes the loss in float32, whatever goes in.
        ours = plain_linear_cross_entropy(hidden, weight, targets, **options)
        expected = linear_cross_entropy_reference(hidden, weight, targets, **options)
        torch.testing.assert_close(ours.double(), expected, rtol=1e-6, atol=0)
