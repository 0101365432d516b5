"""The Rust kernels of quantized_linear, through Python. rust/tests/linear.rs tests every level."""

from importlib import import_module

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, quants

from gptfast import _rust
from gptfast.errors import UserError
from gptfast.ops import quantized_linear
from gptfast.ops.quantized_blocks import quantize_blocks

TYPES = {"q8_0": GGMLQuantizationType.Q8_0, "q4_0": GGMLQuantizationType.Q4_0}
KINDS = pytest.mark.parametrize("kind", TYPES)


def randn(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def weight_of(blocks, kind):
    return torch.tensor(quants.dequantize(blocks.numpy(), TYPES[kind])).double()


@KINDS
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("rows", "columns"), [(1, 32), (50, 96), (257, 1024)])
def test_the_product_is_near_that_of_the_weight_the_blocks_stand_for(kind, dtype, rows, columns):
    x, bias = randn(2, 5, columns, dtype=dtype), randn(rows, seed=1)
    blocks = quantize_blocks(randn(rows, columns, seed=2), kind)
    expected = x.double() @ weight_of(blocks, kind).T
    out = quantized_linear(x, blocks, kind, backend="rust")
    assert out.dtype == dtype
    relative = (out.double() - expected).norm() / expected.norm()
    assert 1e-4 < relative < 0.015
    biased = quantized_linear(x, blocks, kind, bias, backend="rust")
    step = torch.finfo(dtype).eps * (expected.abs() + bias.abs()) * 2
    assert ((biased.double() - out.double() - bias).abs() <= step).all()


@KINDS
def test_the_product_is_that_of_rounded_inputs(kind):
    """To float32's rounding: every 32 inputs are rounded to 127 steps of the largest."""
    x = randn(7, 768).double()
    blocks = quantize_blocks(randn(130, 768, seed=2), kind)
    parts = x.view(7, 24, 32)
    steps = parts.abs().amax(-1, keepdim=True) / 127
    rounded = ((parts / steps).round() * steps).view(7, 768)
    expected = rounded @ weight_of(blocks, kind).T
    out = quantized_linear(x.float(), blocks, kind, backend="rust")
    assert (out.double() - expected).norm() < 1e-5 * expected.norm()


@KINDS
def test_a_row_does_not_depend_on_its_neighbours_or_on_threads(kind):
    x, blocks = randn(70, 1536), quantize_blocks(randn(1030, 1536, seed=2), kind)
    n_threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = torch.cat([quantized_linear(row, blocks, kind) for row in x.split(1)])
        for n in (1, 2, 3):
            torch.set_num_threads(n)
            assert torch.equal(quantized_linear(x, blocks, kind), alone)
    finally:
        torch.set_num_threads(n_threads)


def test_auto_takes_rust_where_it_can():
    module = import_module("gptfast.ops.quantized_linear")  # in `ops`, the function shadows it
    x, blocks = randn(3, 64), quantize_blocks(randn(5, 64, seed=1), "q8_0")
    rust = quantized_linear(x, blocks, "q8_0", backend="rust")
    reference = quantized_linear(x, blocks, "q8_0", backend="reference")
    assert not torch.equal(rust, reference)
    assert torch.equal(quantized_linear(x, blocks, "q8_0"), rust)
    assert torch.equal(quantized_linear(x.T.contiguous().T, blocks, "q8_0"), rust)
    trained = x.clone().requires_grad_()
    assert torch.equal(quantized_linear(trained, blocks, "q8_0"), reference)
    assert "no gradient" in module.why_not("rust", x, randn(5).requires_grad_())
    with torch.no_grad():
        assert torch.equal(quantized_linear(trained, blocks, "q8_0"), rust)
    with pytest.raises(UserError, match="what float64 is for"):
        quantized_linear(x.double(), blocks, "q8_0", backend="rust")
    with pytest.raises(UserError, match="on the CPU, not on meta"):
        quantized_linear(x.to("meta"), blocks.to("meta"), "q8_0", backend="rust")
    assert quantized_linear(x.to("meta"), blocks.to("meta"), "q8_0").shape == (3, 5)


def test_nan_stays_in_its_row_and_nothing_gives_nothing():
    x, blocks = randn(3, 64), quantize_blocks(randn(5, 64, seed=1), "q4_0")
    x[1, 40] = float("nan")
    out = quantized_linear(x, blocks, "q4_0", backend="rust")
    assert out.isnan().all(-1).tolist() == out.isnan().any(-1).tolist() == [False, True, False]
    assert quantized_linear(randn(0, 64), blocks, "q4_0", backend="rust").shape == (0, 5)
    assert quantized_linear(randn(2, 64), blocks[:0], "q4_0", backend="rust").shape == (2, 0)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tracers_keep_the_kernel_whole():
    blocks = quantize_blocks(randn(5, 64, seed=1), "q8_0")
    arguments = (randn(3, 64), blocks, "q8_0")
    torch.library.opcheck(torch.ops.gptfast.quantized_linear.default, arguments)


@pytest.mark.parametrize("kind", ["f32", "bf16"])
@pytest.mark.parametrize("columns", [1, 31, 768])
def test_float_weights_have_the_rounding_of_float32(kind, columns):
    x, weight = randn(5, columns), randn(50, columns, seed=1)
    if kind == "bf16":
        weight = weight.bfloat16()
    values = weight.view(torch.uint16).numpy() if kind == "bf16" else weight.numpy()
    out = np.full((5, 50), np.nan, np.float32)
    _rust.multiply(kind, values, x.numpy(), out, 2)
    expected = (x.double() @ weight.double().T).numpy()
    bound = 1e-7 * (x.double().abs() @ weight.double().abs().T).numpy() * (columns / 16 + 4)
    assert (abs(out - expected) <= bound).all()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"kind": "q5_0"}, ValueError, "kind is 'q5_0': expected 'f32', 'bf16', 'q8_0' or 'q4_0'"),
        ({"kind": "q8_0"}, TypeError, "ndarray"),
        ({"weights": np.ones((4, 2), np.float32)}, ValueError, "expected 6 for a matrix of 2 x 3"),
        ({"weights": np.ones((3, 2), np.float32).T}, ValueError, "not C-contiguous"),
        ({"x": np.ones(3, np.float32)}, TypeError, "ndarray"),
        ({"out": np.ones((2, 2), np.float32)}, ValueError, "x has 1 vectors, and out has room for"),
        ({"out": np.broadcast_to(np.float32(1), (1, 2))}, ValueError, "out is read-only"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(change, error, message):
    given = {
        "kind": "f32",
        "weights": np.ones((2, 3), np.float32),
        "x": np.ones((1, 3), np.float32),
        "out": np.zeros((1, 2), np.float32),
    }
    _rust.multiply(*given.values(), 1)
    assert given["out"].tolist() == [[3, 3]]
    with pytest.raises(error, match=message):
        _rust.multiply(*(given | change).values(), 1)
