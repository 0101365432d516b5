"""The definitions of the norms against hand-written loops, and PyTorch's ops against them."""

import math

import pytest
import torch
import torch.nn.functional as F

from gptfast.errors import UserError
from gptfast.ops import layer_norm, norm, rms_norm
from gptfast.ops.norm import layer_norm_reference, rms_norm_reference
from tolerances import assert_close

OPS = {"layer_norm": layer_norm, "rms_norm": rms_norm}
DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


def inputs(shape, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(s, generator=generator).to(dtype) for s in (shape, shape[-1:], shape[-1:])]


# ---- the definitions -----------------------------------------------------------------------------


def test_layer_norm_reference_is_the_formula():
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


def test_rms_norm_reference_is_the_formula():
    x, weight, _ = inputs((3, 5), torch.float64)
    out = rms_norm_reference(x, weight, 0.1)
    for row in range(3):
        values = x[row].tolist()
        mean_square = sum(value**2 for value in values) / 5
        for c in range(5):
            expected = values[c] / math.sqrt(mean_square + 0.1) * weight[c]
            assert_close("rms_norm", out[row, c], expected)


def test_reference_gradients():
    x, weight, bias = (t.requires_grad_() for t in inputs((2, 3), torch.float64))
    assert torch.autograd.gradcheck(layer_norm_reference, (x, weight, bias))
    assert torch.autograd.gradcheck(rms_norm_reference, (x, weight))


# ---- PyTorch's ops -------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(4, 7), (2, 3, 33), (8,), (3, 1), (0, 4)])
@pytest.mark.parametrize("has_weight", [True, False])
@pytest.mark.parametrize("has_bias", [True, False])
def test_reference_agrees_with_pytorch(shape, dtype, has_weight, has_bias):
    x, weight, bias = inputs(shape, dtype)
    weight, bias = weight if has_weight else None, bias if has_bias else None
    wide = [None if t is None else t.double() for t in (x, weight, bias)]
    expected = F.layer_norm(wide[0], shape[-1:], wide[1], wide[2])
    expected_rms = F.rms_norm(wide[0], shape[-1:], wide[1], 1e-6)
    for backend in ("torch", "reference"):
        out = layer_norm(x, weight, bias, backend=backend)
        rms_out = rms_norm(x, weight, backend=backend)
        assert out.dtype == rms_out.dtype == dtype
        assert_close("layer_norm", out, expected)
        assert_close("rms_norm", rms_out, expected_rms)


@pytest.mark.parametrize("backend", ["torch", "reference"])
def test_a_constant_row_gives_the_bias(backend):
    _, weight, bias = inputs((6,))
    out = layer_norm(torch.full((2, 6), 3.0), weight, bias, backend=backend)
    assert_close("layer_norm", out, bias.expand(2, 6))
    assert not rms_norm(torch.zeros(2, 6), weight, backend=backend).any()


@pytest.mark.parametrize("backend", ["torch", "reference"])
def test_parameters_may_be_wider_than_x(backend):
    x, weight, bias = inputs((4, 7))
    out = layer_norm(x.half(), weight, bias, backend=backend)
    assert out.dtype == torch.float16
    assert_close("layer_norm", out, layer_norm_reference(x.half().double(), weight, bias))
    out = rms_norm(x.half(), weight, backend=backend)
    assert out.dtype == torch.float16
    assert_close("rms_norm", out, rms_norm_reference(x.half().double(), weight))


# ---- autocast ------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["torch", "reference"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_autocast_on_the_cpu_is_pytorchs(dtype, backend):
    x, weight, _ = inputs((4, 7), dtype)
    with torch.autocast("cpu", torch.bfloat16):
        expected = F.layer_norm(x, (7,), weight), F.rms_norm(x, (7,), weight, 1e-6)
        actual = (op(x, weight, backend=backend) for op in OPS.values())
        for op, a, e in zip(OPS, actual, expected, strict=True):
            assert a.dtype == e.dtype
            assert_close(op, a, e)


def test_where_pytorch_autocasts_layer_norm():
    # Without a GPU it can't be run there, but PyTorch can be asked.
    for device in ("CPU", "CUDA"):
        is_cast = torch._C._dispatch_has_kernel_for_dispatch_key(
            "aten::layer_norm", f"Autocast{device}"
        )
        assert is_cast == (device.lower() in norm.AUTOCAST_DEVICES)


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("backend", ["auto", "torch", "reference"])
def test_autocast_to_float32(backend, op, monkeypatch):
    # What happens on CUDA, here on the CPU.
    monkeypatch.setattr(norm, "AUTOCAST_DEVICES", ("cpu",))
    x, weight, _ = inputs((4, 7))
    with torch.autocast("cpu", torch.bfloat16):
        out = OPS[op](x.bfloat16(), weight, backend=backend)
        assert OPS[op](x.double(), backend=backend).dtype == torch.float64
    assert out.dtype == torch.float32
    assert_close(op, out, OPS[op](x.bfloat16().double(), weight.double(), backend="reference"))


# ---- mistakes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"x": torch.tensor(1.0)}, "at least one channel"),
        ({"x": torch.zeros(2, 0)}, "at least one channel"),
        ({"x": torch.zeros(2, 3).int()}, "expected a floating dtype"),
        ({"weight": torch.zeros(2)}, r"weight has shape \(2,\) on cpu; expected \(3,\)"),
    ],
)
def test_a_mistake_is_named(arguments, message, op):
    with pytest.raises(UserError, match=f"{op}: .*{message}"):
        OPS[op](**{"x": torch.zeros(2, 3), **arguments})


def test_a_mistake_in_the_bias_is_named():
    with pytest.raises(UserError, match=r"layer_norm: bias has shape \(2, 3\)"):
        layer_norm(torch.zeros(2, 3), None, torch.zeros(2, 3))
