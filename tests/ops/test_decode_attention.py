"""Attention to a cache of which each batch entry has filled a different part."""

import pytest
import torch

from gptfast.errors import UserError
from gptfast.ops import attention, decode_attention
from tolerances import assert_close

BACKENDS = ("torch", "reference")
LENGTHS = (3, 9, 12)


def inputs(T=2, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    shapes = ((3, 4, T, 8), (3, 2, 12, 8), (3, 2, 12, 8))
    return [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("options", [{}, {"window": 2}, {"scale": 0.3}], ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_each_entry_is_attention_to_the_keys_it_has(backend, options, dtype):
    q, k, v = inputs(dtype=dtype)
    out = decode_attention(q, k, v, torch.tensor(LENGTHS), backend=backend, **options)
    assert out.dtype == dtype
    for b, length in enumerate(LENGTHS):
        one = (x[b : b + 1].double() for x in (q, k[:, :, :length], v[:, :, :length]))
        expected = attention(*one, backend="reference", **options)
        assert_close("decode_attention", out[b : b + 1], expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_without_lengths_all_keys_are_there(backend):
    q, k, v = inputs()
    expected = attention(q, k, v, backend="reference")
    assert_close("decode_attention", decode_attention(q, k, v, backend=backend), expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"q_BHTD": torch.zeros(3, 4, 13, 8)}, "12 keys for 13 queries; expected at least as many"),
        ({"q_BHTD": torch.zeros(3, 3, 1, 8)}, "decode_attention: .* multiple of their heads"),
        ({"window": 0}, "decode_attention: window is 0"),
        ({"lengths_B": torch.tensor([3, 9])}, r"of shape \(2,\) .* expected .* shape \(3,\)"),
        ({"lengths_B": torch.tensor([3.0, 9, 12])}, "is torch.float32 .* expected int32 or int64"),
        ({"lengths_B": torch.tensor([3, 9, 13])}, r"is \[3, 9, 13\]; expected from 2, .* to 12"),
        ({"lengths_B": torch.tensor([1, 9, 12])}, r"is \[1, 9, 12\]; expected from 2"),
        ({"q_BHTD": torch.zeros(3, 4, 2, 8, requires_grad=True)}, "has no gradient: use torch.no"),
    ],
)
def test_a_mistake_is_named(change, message):
    q, k, v = inputs()
    arguments = {"q_BHTD": q, "k_BGSD": k, "v_BGSD": v, **change}
    with pytest.raises(UserError, match=message):
        decode_attention(**arguments)
