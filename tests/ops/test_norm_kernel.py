"""The Triton norms, forward and every gradient, against the definitions in float64."""

import pytest
import torch

from gptfast.errors import UserError
from gptfast.kernels import norm as kernels
from gptfast.ops import layer_norm, norm, rms_norm
from gptfast.ops.norm import layer_norm_reference, rms_norm_reference
from tolerances import assert_close

pytestmark = pytest.mark.usefixtures("_poisoned")
OPS = {
    "layer_norm": (layer_norm, layer_norm_reference),
    "rms_norm": (rms_norm, rms_norm_reference),
}
both_norms = pytest.mark.parametrize("op", OPS)


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def results(function, tensors, dout, **kwargs):
    """Return the output and the gradient of every input that there is."""
    tensors = {name: t.detach().requires_grad_() for name, t in tensors.items()}
    out = function(**tensors, **kwargs)
    return [out, *torch.autograd.grad(out, list(tensors.values()), dout)]


def check(op, x, eps=1e-5, **others):
    """Compare all that comes out; `others` are the weight and the bias."""
    function, reference = OPS[op]
    tensors = {"x": x} | {name: t for name, t in others.items() if t is not None}

    dout = randn(*x.shape, seed=8).to(x)
    actual = results(function, tensors, dout, eps=eps, backend="triton")
    wide = {name: t.double() for name, t in tensors.items()}
    expected = results(reference, wide, dout.double(), eps=eps)
    for a, e, like in zip(actual, expected, [x, *tensors.values()], strict=True):
        assert a.dtype == like.dtype
        assert_close(op, a, e, x.dtype)


# ---- what it computes ----------------------------------------------------------------------------


@pytest.mark.parametrize("has_weight", [True, False])
@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_layer_norm_agrees_with_the_definition(dtype, has_bias, has_weight, device):
    check(
        "layer_norm",
        randn(3, 4, 33).to(device, dtype),
        weight=randn(33, seed=2).to(device, dtype) if has_weight else None,
        bias=randn(33, seed=3).to(device, dtype) if has_bias else None,
    )


@pytest.mark.parametrize("has_weight", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_rms_norm_agrees_with_the_definition(dtype, has_weight, device):
    check(
        "rms_norm",
        randn(3, 4, 33).to(device, dtype),
        weight=randn(33, seed=2).to(device, dtype) if has_weight else None,
    )


@both_norms
@pytest.mark.parametrize("shape", [(1,), (7, 1), (2, 64), (5, 1000), (11, 300)])
def test_any_width_and_height(shape, op, device):
    bias = {"bias": randn(shape[-1]).to(device)} if op == "layer_norm" else {}
    check(op, randn(*shape).to(device), weight=randn(shape[-1]).to(device), **bias)


@both_norms
def test_the_widest_row(op, device, monkeypatch):
    if device == "cpu":  # the interpreter would take 4,096 programs for each parameter's sum
        monkeypatch.setattr(kernels, "SUM_TILE", (16, 1024))
    bias = {"bias": randn(65_536).to(device)} if op == "layer_norm" else {}
    check(op, randn(2, 65_536).to(device), weight=randn(65_536).to(device), **bias)


@pytest.mark.parametrize("programs", [1, 4])
def test_a_program_of_the_backward_takes_many_tiles(programs, device, monkeypatch):
    monkeypatch.setattr(kernels, "MAX_PROGRAMS", programs)
    # Six tiles of two rows, the last half empty.
    x, weight, bias = (randn(*shape).to(device) for shape in ((11, 600), (600,), (600,)))
    check("layer_norm", x, weight=weight, bias=bias)


def test_parameters_of_any_strides(device):
    x, wide = randn(3, 6).to(device), randn(12, seed=2).to(device)
    check("layer_norm", x, weight=wide[::2], bias=wide[:1].expand(6))


@both_norms
def test_no_rows(op, device):
    x, weight = torch.zeros(0, 5, device=device), torch.ones(5, device=device)
    check(op, x, weight=weight)


@both_norms
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
def test_any_strides(view, op, device):
    x = view(randn(3, 4, 10).to(device))
    check(op, x, weight=randn(x.shape[-1]).to(device))


def test_offsets_beyond_32_bits(device, monkeypatch):
    # Two pages of it are used, the others not even filled.
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", False)
    memory = torch.empty(2**31 + 8, dtype=torch.float16, device=device)
    x = memory.as_strided((3, 4), (2**30, 1))
    x.copy_(randn(3, 4))
    check("layer_norm", x, weight=randn(4).to(device))


@both_norms
def test_parameters_wider_than_x(op, device):
    x, weight = randn(4, 9).half().to(device), randn(9).to(device)
    check(op, x, weight=weight)
    check("layer_norm", x, weight=weight, bias=weight)


def test_a_constant_row_gives_the_bias_and_finite_gradients(device):
    weight, bias = randn(9).to(device), randn(9, seed=1).to(device)
    check("layer_norm", torch.full((2, 9), 3.0, device=device), 0.1, weight=weight, bias=bias)
    x = torch.full((2, 9), 3.0, device=device, requires_grad=True)
    out = layer_norm(x, backend="triton")
    assert not out.any()
    out.sum().backward()
    assert x.grad.isfinite().all()


def test_a_row_of_zeros_gives_zeros_and_finite_gradients(device):
    x = torch.zeros(2, 9, device=device, requires_grad=True)
    out = rms_norm(x, backend="triton")
    assert not out.any()
    out.sum().backward()
    assert_close("rms_norm", x.grad, torch.full_like(x, 1000))  # 1 / sqrt(eps)


def test_a_mean_far_from_zero(device):
    # Integers whose sums are exact, while E[x^2] - E[x]^2 would have lost every digit.
    check("layer_norm", (4096 + (2 * randn(3, 64)).round()).to(device))


@both_norms
def test_half_precision_inputs_have_float32_statistics(op, device):
    # The squares are beyond float16, and a float16 sum of 3000 ones would stop at 2048.
    check(op, (300 * randn(3, 40)).half().to(device))
    check(op, (1 + (randn(2, 3000) > 2).half()).to(device))


@both_norms
def test_autocast_to_float32(op, device, monkeypatch):
    monkeypatch.setattr(norm, "AUTOCAST_DEVICES", (device,))
    x = randn(3, 9).half().to(device)
    weight = randn(9).to(device).half().requires_grad_()
    with torch.autocast(device, torch.bfloat16):
        out = OPS[op][0](x, weight, backend="triton")
    assert out.dtype == torch.float32
    # Not rounded to float16 on the way.
    assert_close(op, out, OPS[op][1](x.double(), weight.double()))
    (dweight,) = torch.autograd.grad(out.sum(), weight)
    assert dweight.dtype == torch.float16


# ---- autograd and torch.compile ------------------------------------------------------------------


@both_norms
def test_the_same_bits_twice(op, device):
    x, weight = randn(400, 20).to(device), randn(20).to(device)
    tensors, dout = {"x": x, "weight": weight}, randn(400, 20, seed=1).to(device)
    first, second = (results(OPS[op][0], tensors, dout, backend="triton") for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


# opcheck itself reads the .grad of a tensor that is no leaf.
@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")
@pytest.mark.parametrize("has_others", [True, False])
@pytest.mark.parametrize("centered", [True, False])
def test_registration(centered, has_others, device):
    weight, bias = (randn(8).to(device) for _ in range(2))
    x = randn(2, 3, 8, seed=1).half().to(device)  # so that the output has another dtype
    for tensor in (x, weight, bias):
        tensor.requires_grad_()
    others = (weight, bias) if has_others else (None, None)
    torch.library.opcheck(
        torch.ops.gptfast.norm.default, (x, *others, 1e-5, centered, torch.float32)
    )


@both_norms
@pytest.mark.parametrize("autocasts", [True, False])
def test_compiles_without_a_graph_break(autocasts, op, device, monkeypatch):
    monkeypatch.setattr(norm, "AUTOCAST_DEVICES", (device,) if autocasts else ())

    def loss(x, weight):
        return OPS[op][0](x, weight, backend="triton").sin().sum()

    leaves = [t.to(device).requires_grad_() for t in (randn(3, 8), randn(8))]
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    with torch.autocast(device, torch.float16):
        compiled_loss, eager_loss = compiled(*leaves), loss(*leaves)
    for actual, expected in zip(
        torch.autograd.grad(compiled_loss, leaves),
        torch.autograd.grad(eager_loss, leaves),
        strict=True,
    ):
        assert torch.equal(actual, expected)


@both_norms
def test_a_gradient_that_is_undefined_stays_undefined(op, device):
    x, weight = (randn(*shape).to(device).requires_grad_() for shape in ((2, 5), (5,)))
    out = torch._C._functions.UndefinedGrad()(OPS[op][0](x, weight, backend="triton"))
    assert torch.autograd.grad(out.sum(), (x, weight), allow_unused=True) == (None, None)


@both_norms
def test_a_second_derivative_is_refused(op, device):
    x = randn(3, 8).to(device).requires_grad_()
    loss = OPS[op][0](x, backend="triton").sin().sum()
    (gradient,) = torch.autograd.grad(loss, x, create_graph=True)
    with pytest.raises(UserError, match=r"has no second derivative: .*use_backend"):
        gradient.sum().backward()


@both_norms
def test_what_the_kernel_does_not_serve(op, device):
    with pytest.raises(UserError, match="up to 65,536 channels, not 65537"):
        OPS[op][0](torch.zeros(1, 65_537, device=device), backend="triton")
    with pytest.raises(UserError, match=r"the kernels take float32, .*, not torch.float64"):
        OPS[op][0](torch.zeros(1, 2, device=device).double(), backend="triton")
