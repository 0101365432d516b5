"""The definition of attention against hand-written loops, and PyTorch's op against it."""

import math

import pytest
import torch
import torch.nn.functional as F

from gptfast.errors import UserError
from gptfast.ops import attention
from gptfast.ops.attention import attention_reference
from tolerances import assert_close

BACKENDS = ("torch", "reference")


def inputs(B=1, H=2, G=2, T=5, S=5, D=8, dtype=torch.float32, requires_grad=False):
    generator = torch.Generator().manual_seed(0)
    shapes = ((B, H, T, D), (B, G, S, D), (B, G, S, D))
    return [
        torch.randn(shape, generator=generator).to(dtype).requires_grad_(requires_grad)
        for shape in shapes
    ]


def by_hand(q, k, v, causal, scale):
    """One query and one key at a time, in Python's own floats."""
    B, H, T, D = q.shape
    G, S = k.shape[1:3]
    out, lse = torch.zeros(B, H, T, D, dtype=torch.float64), torch.zeros(B, H, T).double()
    for b, h, t in ((b, h, t) for b in range(B) for h in range(H) for t in range(T)):
        g = h * G // H
        seen = [s for s in range(S) if not causal or T - 1 - t <= S - 1 - s]
        terms = [
            math.exp(scale * sum(float(q[b, h, t, d]) * float(k[b, g, s, d]) for d in range(D)))
            for s in seen
        ]
        lse[b, h, t] = math.log(sum(terms)) if terms else -math.inf
        for s, term in zip(seen, terms, strict=True):
            out[b, h, t] += term / sum(terms) * v[b, g, s]
    return out, lse


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("T", "S"), [(4, 4), (2, 5), (5, 2), (1, 3)])
def test_reference_is_the_formula(T, S, causal):
    q, k, v = inputs(B=2, H=4, G=2, T=T, S=S, D=3, dtype=torch.float64)
    out, lse = attention_reference(q, k, v, causal=causal, scale=0.7, return_lse=True)
    expected_out, expected_lse = by_hand(q, k, v, causal, 0.7)
    assert_close("attention", out, expected_out)
    assert_close("attention", lse, expected_lse)


@pytest.mark.parametrize(("T", "S"), [(3, 3), (4, 2)])
def test_reference_gradients(T, S):
    def seeing(q, k, v):
        out, lse = attention_reference(q, k, v, return_lse=True)
        return out, lse[:, :, max(T - S, 0) :]  # the rows with a finite log-sum-exp

    q, k, v = inputs(H=2, G=1, T=T, S=S, D=3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(seeing, (q, k, v))


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_reference_agrees_with_pytorch_where_both_mean_the_same(dtype, causal):
    q, k, v = inputs(T=9, S=9, dtype=dtype)
    expected = F.scaled_dot_product_attention(q.double(), k.double(), v.double(), is_causal=causal)
    assert_close("attention", attention_reference(q, k, v, causal=causal), expected, dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("T", "S"), [(6, 6), (1, 7), (3, 7), (7, 3), (1, 1)])
@pytest.mark.parametrize(("H", "G"), [(2, 2), (4, 2), (3, 1)])
def test_torch_backend_agrees_with_reference(H, G, T, S, causal, dtype):
    narrow = inputs(B=2, H=H, G=G, T=T, S=S, dtype=dtype, requires_grad=True)
    wide = [x.detach().double().requires_grad_() for x in narrow]
    out = attention(*narrow, causal=causal, scale=0.3, backend="torch")
    expected = attention_reference(*wide, causal=causal, scale=0.3)
    assert out.shape == narrow[0].shape
    assert out.dtype == dtype
    assert_close("attention", out, expected)
    for gradient, expected_gradient in zip(
        torch.autograd.grad(out.sum(), narrow),
        torch.autograd.grad(expected.sum(), wide),
        strict=True,
    ):
        assert_close("attention", gradient, expected_gradient)


@pytest.mark.parametrize("backend", BACKENDS)
def test_weights_are_a_causal_distribution(backend):
    q, k, _ = inputs(T=8, S=8)
    identity = torch.eye(8).expand(1, 2, 8, 8)  # with it as v, the output is the weights
    weights = attention(q, k, identity, backend=backend)
    assert (weights >= 0).all()
    assert not weights.triu(1).any()
    torch.testing.assert_close(weights.sum(-1), torch.ones(1, 2, 8))


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_future_leaves_no_trace(backend):
    q, k, v = inputs(T=8, S=8)
    before = attention(q, k, v, backend=backend)
    for x in (q, k, v):
        x[:, :, 5:] += 1
    after = attention(q, k, v, backend=backend)
    assert torch.equal(before[:, :, :5], after[:, :, :5])
    assert not torch.equal(before[:, :, 5:], after[:, :, 5:])


def test_a_query_that_sees_no_key_gives_zero():
    q, k, v = inputs(T=5, S=2, requires_grad=True)
    for backend in BACKENDS:
        out = attention(q, k, v, backend=backend)
        assert not out[:, :, :3].any()
        assert all(g.isfinite().all() for g in torch.autograd.grad(out.sum(), (q, k, v)))
    _, lse = attention(q, k, v, return_lse=True, backend="reference")
    assert (lse[:, :, :3] == -torch.inf).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_dropout_zeroes_weights_and_scales_the_rest(backend):
    torch.manual_seed(0)
    q = torch.zeros(1, 1, 64, 64)
    identity = torch.eye(64)[None, None]
    weights = attention(q, q, identity, causal=False, dropout_p=0.25, backend=backend)
    kept = weights != 0
    torch.testing.assert_close(weights[kept], torch.full_like(weights[kept], 1 / 64 / 0.75))
    assert 0.7 < kept.double().mean() < 0.8


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"q_BHTD": torch.zeros(2, 5, 8)},
            r"expected non-empty \(batch, heads, time, head width\)",
        ),
        ({"q_BHTD": torch.zeros(1, 2, 0, 8)}, "expected non-empty"),
        ({"q_BHTD": torch.zeros(1, 3, 5, 8)}, "multiple of their heads"),
        ({"v_BGSD": torch.zeros(1, 2, 4, 8)}, "k and v must have one shape"),
        ({"q_BHTD": torch.zeros(1, 2, 5, 4)}, "their batch and head width"),
        ({"k_BGSD": torch.zeros(1, 2, 5, 8).half()}, "move them to one dtype"),
        (
            dict.fromkeys(("q_BHTD", "k_BGSD", "v_BGSD"), torch.zeros(1, 2, 5, 8).int()),
            "expected a floating dtype",
        ),
        ({"dropout_p": 1.0}, "expected 0 <= dropout_p < 1"),
    ],
)
def test_a_mistake_is_named(change, message):
    q, k, v = inputs()
    arguments = {"q_BHTD": q, "k_BGSD": k, "v_BGSD": v, **change}
    with pytest.raises(UserError, match=message):
        attention(**arguments)
