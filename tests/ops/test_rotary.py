"""The definition of the rotary embedding against loops, complex numbers and transformers."""

import math

import pytest
import torch

from gptfast.errors import UserError
from gptfast.ops import rotary
from gptfast.ops.dispatch import preference
from gptfast.ops.rotary import rotary_frequencies, rotary_reference, rotary_tables
from gptfast.ops.rules import Work
from tolerances import assert_close


def randn(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def test_reference_is_the_formula():
    q, k = randn(2, 3, 4, 7, dtype=torch.float64), randn(2, 1, 4, 7, seed=1, dtype=torch.float64)
    cos, sin = randn(2, 4, 3, seed=2), randn(2, 4, 3, seed=3)
    for x, out in zip((q, k), rotary_reference(q, k, cos, sin), strict=True):
        assert out.shape == x.shape
        for b, h, t in torch.cartesian_prod(*(torch.arange(n) for n in x.shape[:3])).tolist():
            for p in range(3):
                c, s = cos[b, t, p].item(), sin[b, t, p].item()
                x1, x2 = x[b, h, t, p].item(), x[b, h, t, p + 3].item()
                assert math.isclose(out[b, h, t, p], x1 * c - x2 * s, abs_tol=1e-12)
                assert math.isclose(out[b, h, t, p + 3], x2 * c + x1 * s, abs_tol=1e-12)
        assert torch.equal(out[..., 6], x[..., 6])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_it_multiplies_complex_numbers(dtype):
    q, k = randn(2, 4, 5, 8, dtype=dtype), randn(2, 2, 5, 8, seed=1, dtype=dtype)
    positions = torch.arange(100, 105)
    angles = positions.double()[:, None] * 10_000.0 ** -(torch.arange(4).double() / 4)
    turn = torch.polar(torch.ones_like(angles), angles)
    tables = rotary_tables(positions, rotary_frequencies(8))
    for x, out in zip((q, k), rotary(q, k, *tables), strict=True):
        assert out.dtype == dtype
        x1, x2 = x.double().chunk(2, -1)
        rotated = torch.view_as_real(torch.view_as_complex(torch.stack((x1, x2), -1)) * turn)
        # The tables have the precision of float32.
        tolerance = torch.float32 if dtype == torch.float64 else dtype
        assert_close("rotary", out, torch.cat(rotated.unbind(-1), -1), tolerance)


def test_agrees_with_transformers_llama():
    pytest.importorskip("transformers")
    from transformers.models.llama import modeling_llama as llama

    config = llama.LlamaConfig(
        hidden_size=24,
        num_attention_heads=3,
        rope_parameters={"rope_type": "default", "rope_theta": 500.0},
    )
    q, k = randn(2, 3, 5, 8), randn(2, 1, 5, 8, seed=1)
    positions = torch.tensor([[0, 1, 2, 3, 4], [7, 8, 9, 0, 1]])
    theirs = llama.apply_rotary_pos_emb(q, k, *llama.LlamaRotaryEmbedding(config)(q, positions))
    ours = rotary(q, k, *rotary_tables(positions, rotary_frequencies(8, base=500.0)))
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_agrees_with_transformers_gpt_neox_on_a_part_of_the_head():
    pytest.importorskip("transformers")
    from transformers.models.gpt_neox.modeling_gpt_neox import apply_rotary_pos_emb

    q, k = randn(1, 2, 5, 9), randn(1, 2, 5, 9, seed=1)
    cos, sin = rotary_tables(torch.arange(5), rotary_frequencies(6))
    theirs = apply_rotary_pos_emb(q, k, *(torch.cat((t, t), -1)[None] for t in (cos, sin)))
    torch.testing.assert_close(rotary(q, k, cos, sin), theirs, atol=1e-6, rtol=0)


def test_lengths_stay_and_products_depend_on_the_distance_alone():
    q, k = (
        randn(1, 1, 1, 16, seed=seed, dtype=torch.float64).expand(1, 1, 40, 16) for seed in (0, 1)
    )
    tables = rotary_tables(torch.arange(40) + 3000, rotary_frequencies(16))
    q_rotated, k_rotated = rotary(q, k, *tables)
    torch.testing.assert_close(q_rotated.norm(dim=-1), q.norm(dim=-1), atol=1e-6, rtol=0)
    products = (q_rotated @ k_rotated.mT)[0, 0]
    for distance in range(40):
        along = products.diagonal(-distance)
        torch.testing.assert_close(along, along[:1].expand_as(along), atol=1e-5, rtol=0)
    # Not all the same, or the position would not be encoded.
    assert products[0, 0] - products[39, 0] > 0.1 or products[39, 0] - products[0, 0] > 0.1


def test_tables_are_precise_at_long_positions():
    positions = torch.tensor([[0, 1, 8191], [131_071, 1_000_003, 2**24 + 1]])
    frequencies = rotary_frequencies(6, base=500_000.0)
    cos, sin = rotary_tables(positions, frequencies)
    assert cos.dtype == sin.dtype == torch.float32
    assert cos.shape == sin.shape == (2, 3, 3)
    for b, t, p in torch.cartesian_prod(torch.arange(2), torch.arange(3), torch.arange(3)).tolist():
        angle = positions[b, t].item() / 500_000.0 ** (2 * p / 6)
        assert abs(cos[b, t, p].item() - math.cos(angle)) < 1e-7
        assert abs(sin[b, t, p].item() - math.sin(angle)) < 1e-7
    assert torch.equal(rotary_tables(positions[1], frequencies)[0], cos[1])


def test_reference_gradients():
    q, k = (randn(2, n, 3, 5, dtype=torch.float64).requires_grad_() for n in (2, 1))
    tables = randn(3, 2), randn(3, 2, seed=1)
    assert torch.autograd.gradcheck(lambda q, k: rotary(q, k, *tables), (q, k))


# ---- mistakes ------------------------------------------------------------------------------------


X, TABLE = torch.zeros(2, 3, 4, 6), torch.zeros(4, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((X[0], X[0], TABLE, TABLE), r"expected non-empty \(batch, heads, time, head width\)"),
        ((X[:, :0], X, TABLE, TABLE), "expected non-empty"),
        ((X, X[:, :, :3], TABLE, TABLE), "only the number of heads may differ"),
        ((X, X[..., :5], TABLE, TABLE), "only the number of heads may differ"),
        ((X, X[:1], TABLE, TABLE), "only the number of heads may differ"),
        ((X, X.half(), TABLE, TABLE), "k is torch.float16 on cpu; move them"),
        ((X.int(), X.int(), TABLE, TABLE), "q is torch.int32; expected a floating dtype"),
        ((X, X, TABLE[:3], TABLE[:3]), r"cos has shape \(3, 3\).* expected one of \(4, pairs\)"),
        ((X, X, TABLE, TABLE.expand(3, 4, 3)), r"sin \(3, 4, 3\); expected .* \(2, 4, "),
        ((X, X, TABLE, TABLE[:, :2]), r"sin \(4, 2\); expected one of"),
        ((X, X, TABLE.expand(2, 4, 3), TABLE), r"cos has shape \(2, 4, 3\), sin \(4, 3\)"),
        ((X, X, torch.zeros(4, 4), torch.zeros(4, 4)), "1 to 3 pairs"),
        ((X, X, TABLE[:, :0], TABLE[:, :0]), "1 to 3 pairs"),
        ((X, X, TABLE.half(), TABLE), "cos is torch.float16 on cpu, sin is torch.float32"),
        ((X, X, TABLE.half(), TABLE.half()), "cos is torch.float16 on cpu; expected torch.float32"),
        ((X, X, TABLE, TABLE.clone().requires_grad_()), r"no gradient; pass .* sin.detach\(\)"),
    ],
)
def test_a_mistake_is_named(arguments, message):
    with pytest.raises(UserError, match=message):
        rotary(*arguments)


@pytest.mark.parametrize(
    ("positions", "message"),
    [
        (torch.zeros(2, 3, 4), r"shape \(2, 3, 4\); expected numbers of shape \(time,\)"),
        (torch.zeros(2).bool(), "positions are torch.bool"),
    ],
)
def test_a_mistake_about_the_tables_is_named(positions, message):
    with pytest.raises(UserError, match=message):
        rotary_tables(positions, rotary_frequencies(8))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((7,), "rotary_width is 7; expected 2, 4, 6"),
        ((0,), "rotary_width is 0"),
        ((8, 0.0), "base is 0.0; expected more than 0"),
    ],
)
def test_a_mistake_about_the_frequencies_is_named(arguments, message):
    with pytest.raises(UserError, match=message):
        rotary_frequencies(*arguments)


def test_pytorch_has_no_op_for_it():
    with pytest.raises(UserError, match=r"rotary: backend is 'torch'; use .*'triton'"):
        rotary(X, X, TABLE, TABLE, backend="torch")
    work = Work("rotary", "training, half", 1)
    assert preference(work, torch.device("cpu")) == ("reference",)
    assert preference(work, torch.device("cuda")) == ("triton", "reference")
