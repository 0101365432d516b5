"""The Triton layer norm, forward and every gradient, against the definition in float64."""

import pytest
import torch

from gptfast.errors import UserError
from gptfast.ops import layer_norm
from gptfast.ops.layer_norm import layer_norm_reference
from tolerances import assert_close

pytestmark = pytest.mark.usefixtures("_poisoned")


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def results(function, x, weight, bias, dout, **kwargs):
    """Return the output and the gradient of every input that there is."""
    inputs = [None if t is None else t.detach().requires_grad_() for t in (x, weight, bias)]
    out = function(*inputs, **kwargs)
    return [out, *torch.autograd.grad(out, [t for t in inputs if t is not None], dout)]


def check(x, weight=None, bias=None, **kwargs):
    dout = randn(*x.shape, seed=1).to(x)
    actual = results(layer_norm, x, weight, bias, dout, backend="triton", **kwargs)
    wide = [None if t is None else t.double() for t in (x, weight, bias, dout)]
    expected = results(layer_norm_reference, *wide, **kwargs)
    for a, e, like in zip(
        actual, expected, [x, *(t for t in (x, weight, bias) if t is not None)], strict=True
    ):
        assert a.dtype == like.dtype
        assert_close("layer_norm", a, e, x.dtype)


@pytest.mark.parametrize("has_weight", [True, False])
@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_agrees_with_the_definition(dtype, has_bias, has_weight, device):
    x = randn(3, 4, 33).to(device, dtype)
    weight = randn(33, seed=2).to(device, dtype) if has_weight else None
    bias = randn(33, seed=3).to(device, dtype) if has_bias else None
    check(x, weight, bias)


@pytest.mark.parametrize("shape", [(1,), (7, 1), (2, 64), (5, 1000), (2, 65_536), (520, 8)])
def test_any_width_and_height(shape, device):
    # 520 rows are more than there are programs in the backward.
    check(*(t.to(device) for t in (randn(*shape), randn(shape[-1]), randn(shape[-1]))))


def test_no_rows(device):
    check(torch.zeros(0, 5, device=device), torch.ones(5, device=device))


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x[:, :, ::2],
        lambda x: x.transpose(0, 1),
        lambda x: x.mT,
        lambda x: x[:, :1].expand(-1, 3, -1),
        lambda x: x[..., :5],
    ],
    ids=["every second", "rows swapped", "columns first", "expanded", "part of a row"],
)
def test_any_strides(view, device):
    x = view(randn(3, 4, 10).to(device))
    check(x, randn(x.shape[-1]).to(device))


def test_parameters_wider_than_x(device):
    check(randn(4, 9).half().to(device), randn(9).to(device), randn(9).to(device))


def test_a_constant_row_gives_the_bias_and_finite_gradients(device):
    check(torch.full((2, 9), 3.0, device=device), randn(9).to(device), randn(9).to(device), eps=0.1)
    x = torch.full((2, 9), 3.0, device=device, requires_grad=True)
    out = layer_norm(x, backend="triton")
    assert not out.any()
    out.sum().backward()
    assert x.grad.isfinite().all()


def test_a_mean_far_from_zero(device):
    # Integers whose sums are exact, while E[x^2] - E[x]^2 would have lost every digit.
    check((4096 + (2 * randn(3, 64)).round()).to(device))


def test_the_same_bits_twice(device):
    x, weight = randn(40, 20).to(device), randn(20).to(device)
    first, second = (
        results(layer_norm, x, weight, weight, torch.ones_like(x), backend="triton")
        for _ in range(2)
    )
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


# opcheck itself reads the .grad of a tensor that is no leaf.
@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")
@pytest.mark.parametrize("has_parameters", [True, False])
def test_registration(has_parameters, device):
    x, weight = (t.to(device).requires_grad_() for t in (randn(2, 3, 8), randn(8)))
    parameters = (weight, weight.detach().requires_grad_()) if has_parameters else (None, None)
    torch.library.opcheck(torch.ops.gptfast.layer_norm.default, (x, *parameters, 1e-5))


def test_compiles_without_a_graph_break(device):
    def loss(x, weight):
        return layer_norm(x, weight, backend="triton").sin().sum()

    leaves = [t.to(device).requires_grad_() for t in (randn(3, 8), randn(8))]
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    for actual, expected in zip(
        torch.autograd.grad(compiled(*leaves), leaves),
        torch.autograd.grad(loss(*leaves), leaves),
        strict=True,
    ):
        assert torch.equal(actual, expected)


def test_a_second_derivative_is_refused(device):
    x = randn(3, 8).to(device).requires_grad_()
    loss = layer_norm(x, backend="triton").sin().sum()
    (gradient,) = torch.autograd.grad(loss, x, create_graph=True)
    with pytest.raises(UserError, match="has no second derivative; use backend='reference'"):
        gradient.sum().backward()


def test_what_the_kernel_does_not_serve(device):
    with pytest.raises(UserError, match="up to 65,536 channels, not 65537"):
        layer_norm(torch.zeros(1, 65_537, device=device), backend="triton")
