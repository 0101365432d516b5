"""The definition of layer norm against hand-written loops, and PyTorch's op against it."""

import math

import pytest
import torch
import torch.nn.functional as F

from gptfast.errors import UserError
from gptfast.ops import layer_norm
from gptfast.ops.layer_norm import layer_norm_reference
from tolerances import assert_close


def inputs(shape, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(s, generator=generator).to(dtype) for s in (shape, shape[-1:], shape[-1:])]


def test_reference_is_the_formula():
    x, weight, bias = inputs((3, 5), torch.float64)
    out = layer_norm_reference(x, weight, bias, 0.1)
    for row in range(3):
        values = x[row].tolist()
        mean = sum(values) / 5
        variance = sum((value - mean) ** 2 for value in values) / 5
        for c in range(5):
            normal = (values[c] - mean) / math.sqrt(variance + 0.1)
            expected = normal * weight[c] + bias[c]
            assert_close("layer_norm", out[row, c], expected)


def test_reference_gradients():
    x, weight, bias = (t.requires_grad_() for t in inputs((2, 3), torch.float64))
    assert torch.autograd.gradcheck(layer_norm_reference, (x, weight, bias))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", [(4, 7), (2, 3, 33), (8,), (3, 1), (0, 4)])
@pytest.mark.parametrize("has_weight", [True, False])
@pytest.mark.parametrize("has_bias", [True, False])
def test_reference_agrees_with_pytorch(shape, dtype, has_weight, has_bias):
    x, weight, bias = inputs(shape, dtype)
    weight, bias = weight if has_weight else None, bias if has_bias else None
    wide = [None if t is None else t.double() for t in (x, weight, bias)]
    expected = F.layer_norm(wide[0], shape[-1:], wide[1], wide[2])
    for backend in ("torch", "reference"):
        out = layer_norm(x, weight, bias, backend=backend)
        assert out.dtype == dtype
        assert_close("layer_norm", out, expected)


@pytest.mark.parametrize("backend", ["torch", "reference"])
def test_a_constant_row_gives_the_bias(backend):
    _, weight, bias = inputs((6,))
    out = layer_norm(torch.full((2, 6), 3.0), weight, bias, backend=backend)
    assert_close("layer_norm", out, bias.expand(2, 6))


def test_parameters_may_be_wider_than_x():
    x, weight, bias = inputs((4, 7))
    out = layer_norm(x.half(), weight, bias, backend="reference")
    assert out.dtype == torch.float16
    assert_close("layer_norm", out, layer_norm_reference(x.half().double(), weight, bias))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.tensor(1.0),), "at least one channel"),
        ((torch.zeros(2, 0),), "at least one channel"),
        ((torch.zeros(2, 3).int(),), "expected a floating dtype"),
        ((torch.zeros(2, 3), torch.zeros(2)), r"weight has shape \(2,\) on cpu; expected \(3,\)"),
        ((torch.zeros(2, 3), None, torch.zeros(2, 3)), r"bias has shape \(2, 3\)"),
    ],
)
def test_a_mistake_is_named(arguments, message):
    with pytest.raises(UserError, match=message):
        layer_norm(*arguments)
