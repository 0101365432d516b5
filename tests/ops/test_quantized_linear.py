"""Blocks against the `gguf` package byte for byte, and the product against float64."""

from importlib import import_module

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, quants
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from gptfast.errors import UserError
from gptfast.ops import quantized_linear
from gptfast.ops.quantized_blocks import (
    BLOCK_BYTES,
    dequantize_blocks,
    quantize_blocks,
    row_bytes,
)
from tolerances import assert_close

TYPES = {"q8_0": GGMLQuantizationType.Q8_0, "q4_0": GGMLQuantizationType.Q4_0}
KINDS = pytest.mark.parametrize("kind", TYPES)


def randn(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def theirs(weight, kind):
    return quants.quantize(weight, TYPES[kind])


# Numbers of one block: from float16's subnormal scales to its largest ones, on a coarse grid so
# that halves of a step, equal magnitudes of both signs, and zeros are common.
BLOCKS = st.builds(
    lambda grid, power: (grid * 2.0**power).astype(np.float32),
    arrays(np.int64, (2, 64), elements=st.integers(-254, 254)),
    st.integers(-30, 11),
)


@KINDS
@given(weight=BLOCKS)
def test_blocks_on_a_grid_are_those_of_gguf(kind, weight):
    assert np.array_equal(quantize_blocks(torch.tensor(weight), kind).numpy(), theirs(weight, kind))


@KINDS
@given(
    weight=arrays(
        np.float32,
        (1, 32),
        elements=st.floats(-4e5, 4e5, width=32).filter(lambda x: x == 0 or abs(x) > 1e-30),
    )
)
def test_blocks_of_any_numbers_are_those_of_gguf(kind, weight):
    assert np.array_equal(quantize_blocks(torch.tensor(weight), kind).numpy(), theirs(weight, kind))


@KINDS
@given(data=st.data())
def test_any_bytes_stand_for_the_numbers_that_gguf_reads(kind, data):
    shape = (2, 3 * BLOCK_BYTES[kind])
    blocks = data.draw(arrays(np.uint8, shape, elements=st.integers(0, 255)))
    with np.errstate(invalid="ignore"):  # a scale may be NaN or infinite
        expected = quants.dequantize(blocks, TYPES[kind])
    ours = dequantize_blocks(torch.tensor(blocks), kind).numpy()
    assert np.array_equal(ours, expected, equal_nan=True)


def test_the_rounding_by_hand():
    """Scale 1 in both: Q8_0's ties go away from zero, Q4_0's go up, and -8 is a step of its own."""
    x = torch.zeros(1, 32)
    x[0, :4] = torch.tensor([127.0, 0.5, -0.5, 2.5])
    assert quantize_blocks(x, "q8_0")[0, 2:6].view(torch.int8).tolist() == [127, 1, -1, 3]
    x[0, :6] = torch.tensor([-8.0, 0.5, -0.5, 7.4, 8.0, 1.0])
    assert (quantize_blocks(x, "q4_0")[0, 2:8] & 15).tolist() == [0, 9, 8, 15, 15, 9]
    x[0, :6] = torch.tensor([8.0, 0.5, -0.5, 7.4, -8.0, 1.0])  # the first of equals decides
    assert quantize_blocks(x, "q4_0")[0, :2].view(torch.float16).item() == -1
    low = torch.arange(32.0)[None] - 8
    assert torch.equal(dequantize_blocks(quantize_blocks(low.clamp(max=7), "q4_0"), "q4_0"),
                       low.clamp(max=7))  # fmt: skip


@KINDS
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e8])
def test_what_no_scale_can_hold_is_refused(kind, bad):
    weight = torch.ones(2, 64)
    weight[1, 40] = bad
    with pytest.raises(UserError, match=f"can't be stored as {kind}: a block of them holds NaN"):
        quantize_blocks(weight, kind)


@KINDS
def test_rows_that_do_not_divide_are_refused(kind):
    for n in (0, 31, 48):
        with pytest.raises(UserError, match=f"a row has {n} numbers; expected a multiple of 32"):
            quantize_blocks(torch.ones(2, n), kind)
    with pytest.raises(UserError, match=f"a multiple of {BLOCK_BYTES[kind]} bytes"):
        dequantize_blocks(torch.zeros(2, 35, dtype=torch.uint8), kind)
    with pytest.raises(UserError, match="kind is 'q5_0'; expected 'q8_0' or 'q4_0'"):
        row_bytes(32, "q5_0")


@KINDS
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("backend", ["torch", "reference"])
def test_the_product_is_that_of_the_weight_the_blocks_stand_for(kind, dtype, backend, monkeypatch):
    module = import_module("gptfast.ops.quantized_linear")  # in `ops`, the function shadows it
    monkeypatch.setattr(module, "_NUMBERS_AT_A_TIME", 300)  # 17 chunks, the last one shorter
    x, bias = randn(2, 3, 96, dtype=dtype), randn(50, seed=1)
    blocks = quantize_blocks(randn(50, 96, seed=2) / 8, kind)
    weight = torch.tensor(quants.dequantize(blocks.numpy(), TYPES[kind])).double()
    for b in (None, bias):
        out = quantized_linear(x, blocks, kind, b, backend=backend)
        assert out.dtype == dtype
        assert_close("quantized_linear", out, x.double() @ weight.T + (0 if b is None else b))


@KINDS
@pytest.mark.parametrize("backend", ["torch", "reference"])
def test_the_input_and_the_bias_have_their_gradients(kind, backend, monkeypatch):
    module = import_module("gptfast.ops.quantized_linear")
    monkeypatch.setattr(module, "_NUMBERS_AT_A_TIME", 130)  # three chunks, the last one shorter
    x, bias = randn(3, 64, dtype=torch.float64), randn(5, dtype=torch.float64)
    blocks = quantize_blocks(randn(5, 64, seed=1), kind)
    assert torch.autograd.gradcheck(
        lambda *inputs: quantized_linear(inputs[0], blocks, kind, inputs[1], backend=backend),
        (x.requires_grad_(), bias.requires_grad_()),
    )


@KINDS
def test_the_gradient_keeps_the_blocks_and_no_float_weights(kind):
    kept = []
    blocks = quantize_blocks(randn(64, 96, seed=1), kind)
    x = randn(2, 96).requires_grad_()
    keep = torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t)
    with keep:
        quantized_linear(x, blocks, kind, backend="torch")
    assert [t.data_ptr() for t in kept] == [blocks.data_ptr()]


def test_no_rows_and_autocast():
    blocks = quantize_blocks(randn(5, 64, seed=1), "q8_0")
    assert quantized_linear(randn(0, 64), blocks, "q8_0").shape == (0, 5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = quantized_linear(randn(3, 64), blocks, "q8_0")
    assert torch.equal(out, quantized_linear(randn(3, 64), blocks, "q8_0"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "int8"}, "kind is 'int8'"),
        ({"kind": "q4_0"}, r"of shape \(5, 68\); expected torch.uint8 of shape \(outputs, 36\)"),
        ({"x": torch.ones(2, 32)}, r"expected torch.uint8 of shape \(outputs, 34\), q8_0 for 32"),
        ({"x": torch.ones(2, 40)}, "expected a floating dtype and .* a multiple of 32 features"),
        ({"x": torch.ones(2, 64).int()}, "x is torch.int32 .*; expected a floating dtype"),
        ({"x": [1.0]}, "x is a list; expected a Tensor"),
        ({"blocks": torch.ones(5, 68)}, "blocks are torch.float32"),
        ({"bias": torch.ones(4)}, r"bias is torch.float32 of shape \(4,\); expected .* \(5,\)"),
        ({"bias": torch.ones(5, device="meta")}, "the tensors are on cpu, meta; move them"),
    ],
)
def test_a_mistake_is_named(change, message):
    given = {"x": torch.ones(2, 64), "blocks": torch.zeros(5, 68, dtype=torch.uint8)}
    with pytest.raises(UserError, match=message):
        quantized_linear(**(given | {"kind": "q8_0"} | change))
