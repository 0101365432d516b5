"""Dropout on the CPU: what it zeroes, how it scales the rest, and that gradients take its mask."""

from __future__ import annotations

import pytest
import torch

from gptfast.errors import UserError
from gptfast.ops import dropout

N = 200_003  # not a multiple of the four elements that share a draw


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_a_share_of_p_is_zeroed_and_the_rest_divided_by_1_minus_p(
    dtype: torch.dtype, p: float
) -> None:
    torch.manual_seed(0)
    x = torch.full((N,), 3.0, dtype=dtype)
    out = dropout(x, p)
    assert out.dtype == dtype
    is_kept = out != 0
    torch.testing.assert_close(out[is_kept], x[is_kept] / (1 - p), rtol=8e-3, atol=0)
    n_dropped = N - int(is_kept.sum())
    deviation = (N * p * (1 - p)) ** 0.5
    assert abs(n_dropped - N * p) < 5 * deviation


def test_each_element_is_drawn_by_itself() -> None:
    """Elements that share a draw of 64 bits are no more alike than others."""
    torch.manual_seed(0)
    is_kept_4N = (dropout(torch.ones(4 * N), 0.5) != 0).double().view(N, 4).T
    correlation_44 = torch.corrcoef(is_kept_4N)
    assert (correlation_44 - torch.eye(4)).abs().max() < 5 / N**0.5
    neighbours = torch.corrcoef(torch.stack((is_kept_4N[0, 1:], is_kept_4N[0, :-1])))
    assert neighbours[0, 1].abs() < 5 / N**0.5


def test_gradients_take_the_same_mask() -> None:
    torch.manual_seed(0)
    x = torch.randn(7, 5, 3, requires_grad=True)
    out = dropout(x, 0.25)
    (gradient,) = torch.autograd.grad(out, x, torch.full_like(out, 2.0))
    is_kept = out != 0
    assert 0 < int((~is_kept).sum()) < x.numel()
    torch.testing.assert_close(gradient, torch.where(is_kept, 2.0 / 0.75, 0.0))


def test_the_generator_decides_and_moves_on() -> None:
    x = torch.ones(1000)
    torch.manual_seed(5)
    first, second = dropout(x, 0.3), dropout(x, 0.3)
    torch.manual_seed(5)
    assert torch.equal(dropout(x, 0.3), first)
    assert not torch.equal(first, second)


def test_the_ends() -> None:
    x = torch.randn(4, 0, 3)
    assert dropout(x, 0.5).shape == x.shape
    x = torch.randn(100)
    assert dropout(x, 0.0) is x
    assert dropout(x, 1 - 1e-9).isfinite().all()
    for p in (-0.1, 1.0, float("nan")):
        with pytest.raises(UserError, match="expected 0 <= p < 1"):
            dropout(x, p)
