"""The definition of attention against hand-written loops, and PyTorch's op against it."""

import math

import pytest
import torch
import torch.nn.functional as F

from gptfast.errors import UserError
from gptfast.ops import attention, decode_attention
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


def by_hand(q, k, v, causal, scale, window=math.inf, documents=None):
    """One query and one key at a time, in Python's own floats. `documents` names each token's."""
    B, H, T, D = q.shape
    G, S = k.shape[1:3]
    out = torch.zeros(B, H, T, D, dtype=torch.float64)

    def is_seen(b, t, s):
        ahead = (S - s) - (T - t)  # how much further from the end the query is than the key
        if documents is not None and documents[b][t] != documents[b][s]:
            return False
        return abs(ahead) < window and (not causal or ahead >= 0)

    def logit(b, h, t, g, s):
        return scale * sum(float(q[b, h, t, d]) * float(k[b, g, s, d]) for d in range(D))

    for b, h, t in ((b, h, t) for b in range(B) for h in range(H) for t in range(T)):
        g = h * G // H
        seen = [s for s in range(S) if is_seen(b, t, s)]
        terms = [math.exp(logit(b, h, t, g, s)) for s in seen]
        for s, term in zip(seen, terms, strict=True):
            out[b, h, t] += term / sum(terms) * v[b, g, s]
    return out


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("T", "S"), [(4, 4), (2, 5), (5, 2), (1, 3)])
@pytest.mark.parametrize("options", [{}, {"window": 1}, {"window": 2}], ids=str)
def test_reference_is_the_formula(T, S, causal, options):
    q, k, v = inputs(B=2, H=4, G=2, T=T, S=S, D=3, dtype=torch.float64)
    options = {"causal": causal, "scale": 0.7, **options}
    assert_close("attention", attention_reference(q, k, v, **options), by_hand(q, k, v, **options))


# The third document goes on in the second row; there is an empty one behind the first.
PACKED = torch.tensor([0, 2, 2, 3, 9, 12])
DOCUMENTS = ["aabccc", "cccddd"]


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_packed_documents_do_not_see_one_another(dtype, causal):
    q, k, v = inputs(B=2, H=2, G=1, T=6, S=6, D=3, dtype=torch.float64)
    options = {"causal": causal, "scale": 0.7, "window": 3}
    expected = by_hand(q, k, v, documents=DOCUMENTS, **options)
    for backend in BACKENDS:
        out = attention(q, k, v, cu_seqlens=PACKED.to(dtype), backend=backend, **options)
        assert_close("attention", out, expected)


@pytest.mark.parametrize(("T", "S"), [(3, 3), (4, 2)])
def test_reference_gradients(T, S):
    q, k, v = inputs(H=2, G=1, T=T, S=S, D=3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(attention_reference, (q, k, v))


def test_reference_gradients_of_everything_at_once():
    def dropped(q, k, v):
        torch.manual_seed(0)
        return attention_reference(
            q, k, v, window=3, dropout_p=0.3, cu_seqlens=torch.tensor([0, 4, 5])
        )

    q, k, v = inputs(H=2, G=1, D=3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(dropped, (q, k, v))


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_reference_agrees_with_pytorch_where_both_mean_the_same(dtype, causal):
    q, k, v = inputs(T=9, S=9, dtype=dtype)
    expected = F.scaled_dot_product_attention(q.double(), k.double(), v.double(), is_causal=causal)
    assert_close("attention", attention_reference(q, k, v, causal=causal), expected, dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("T", "S"), [(6, 6), (1, 7), (3, 7), (7, 3), (1, 1)])
@pytest.mark.parametrize(("H", "G", "window"), [(2, 2, None), (4, 2, 2), (3, 1, None)])
def test_torch_backend_agrees_with_reference(H, G, window, T, S, causal, dtype):
    narrow = inputs(B=2, H=H, G=G, T=T, S=S, dtype=dtype, requires_grad=True)
    wide = [x.detach().double().requires_grad_() for x in narrow]
    options = {"causal": causal, "scale": 0.3, "window": window}
    out = attention(*narrow, backend="torch", **options)
    expected = attention_reference(*wide, **options)
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


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("backend", BACKENDS)
def test_dropout_zeroes_weights_and_scales_the_rest(backend, causal):
    torch.manual_seed(0)
    identity = torch.eye(100).expand(2, 2, 100, 100)  # with it as v, the output is the weights
    q, options = torch.zeros_like(identity), {"causal": causal, "dropout_p": 0.25}
    weights, others = (attention(q, q, identity, backend=backend, **options) for _ in range(2))
    expected = attention_reference(q, q, identity, causal=causal) / 0.75
    kept = weights != 0
    assert not (kept & (expected == 0)).any()
    torch.testing.assert_close(weights[kept], expected[kept], rtol=1e-4, atol=0)
    seen = (expected != 0).sum()
    assert 0.73 < kept.sum() / seen < 0.77
    # Batch entries, heads and calls differ: of two masks 0.75^2 + 0.25^2 of the elements agree.
    for other in (kept.roll(1, 0), kept.roll(1, 1), others != 0):
        assert 0.6 < 1 - (kept != other).sum() / seen < 0.65


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_autocast_is_pytorchs(dtype, backend):
    q, k, v = inputs(dtype=dtype)
    with torch.autocast("cpu", torch.bfloat16):
        expected = F.scaled_dot_product_attention(q, k, v)
        out = attention(q, k, v, causal=False, backend=backend)
        decoded = decode_attention(q, k, v, backend=backend)
    assert decoded.dtype == out.dtype == expected.dtype
    assert_close("attention", out, expected)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(
    ("B", "H", "G", "T", "S"), [(2, 4, 2, 70, 150), (1, 3, 3, 130, 130), (30, 3, 1, 64, 64)]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropout_on_the_cpu_gives_the_gradients_of_its_mask(dtype, B, H, G, T, S, causal):
    q, k, v = inputs(B=B, H=H, G=G, T=T, S=S, dtype=dtype, requires_grad=True)

    def dropped(q, k, v):
        torch.manual_seed(0)
        options = {"causal": causal, "scale": 0.3, "dropout_p": 0.25, "backend": "torch"}
        return attention(q, k, v, **options)

    # The mask does not depend on the width, nor on the values.
    zeros = torch.zeros(B, H, T, S), torch.zeros(B, G, S, S)
    kept = dropped(*zeros, torch.eye(S).expand(B, G, S, S)) != 0
    wide_q, wide_k, wide_v = (x.detach().double().requires_grad_() for x in (q, k, v))
    keys, values = (x.repeat_interleave(H // G, 1) for x in (wide_k, wide_v))
    logits = wide_q @ keys.mT * 0.3
    if causal:
        logits += torch.full((T, S), -torch.inf).triu(S - T + 1)
    expected = (logits.softmax(-1) * kept / 0.75) @ values
    out = dropped(q, k, v)
    assert_close("attention", out, expected)
    for gradient, expected_gradient in zip(
        torch.autograd.grad(out.sum(), (q, k, v)),
        torch.autograd.grad(expected.sum(), (wide_q, wide_k, wide_v)),
        strict=True,
    ):
        assert_close("attention", gradient, expected_gradient)


def test_dropout_on_the_cpu_of_nearly_everything():
    q, k, v = inputs()
    assert attention(q, k, v, dropout_p=1 - 1e-9).isfinite().all()


def test_a_backward_pass_under_autocast_of_dropout_on_the_cpu():
    q, k, v = inputs(requires_grad=True)
    torch.manual_seed(0)
    expected = torch.autograd.grad(attention(q, k, v, dropout_p=0.2).sum(), (q, k, v))
    torch.manual_seed(0)
    out = attention(q, k, v, dropout_p=0.2)
    with torch.autocast("cpu", torch.bfloat16):
        actual = torch.autograd.grad(out.sum(), (q, k, v))
    assert all(torch.equal(a, e) for a, e in zip(actual, expected, strict=True))


def test_a_second_derivative_of_dropout_on_the_cpu_is_refused():
    q, k, v = inputs(requires_grad=True)
    loss = attention(q, k, v, dropout_p=0.2).square().sum()
    (gradient,) = torch.autograd.grad(loss, q, create_graph=True)
    with pytest.raises(UserError, match="has no second derivative"):
        gradient.sum().backward()


def test_shapes_can_be_had_without_values():
    q = torch.empty(1, 2, 5, 8, device="meta")
    assert attention(q, q, q, backend="reference").shape == q.shape
    assert decode_attention(q, q, q, backend="reference").shape == q.shape


# opcheck itself reads the .grad of a tensor that is no leaf.
@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")
@pytest.mark.parametrize("causal", [True, False])
def test_registration_of_the_blockwise_path(causal):
    q, k, v = (x.squeeze(0) for x in inputs(T=5, S=7, requires_grad=True))
    arguments = (q, k, v, torch.ones(1, dtype=torch.int64), causal, 0.3, 0.25)
    torch.library.opcheck(torch.ops.gptfast.blockwise_attention.default, arguments)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"q_BHTD": torch.zeros(2, 5, 8)},
            r"expected non-empty \(batch, heads, time, head width\)",
        ),
        ({"q_BHTD": torch.zeros(1, 2, 0, 8)}, "expected non-empty"),
        ({"q_BHTD": torch.zeros(1, 3, 5, 8)}, "multiple of their heads"),
        ({"v_BGSD": torch.zeros(1, 2, 4, 8)}, "expected k and v of one shape"),
        ({"q_BHTD": torch.zeros(1, 2, 5, 4)}, "the same batch and head width"),
        ({"k_BGSD": torch.zeros(1, 2, 5, 8).half()}, "move them to one dtype"),
        (
            dict.fromkeys(("q_BHTD", "k_BGSD", "v_BGSD"), torch.zeros(1, 2, 5, 8).int()),
            "expected a floating dtype",
        ),
        ({"dropout_p": 1.0}, "expected 0 <= dropout_p < 1"),
        ({"window": 0}, "window is 0; expected at least 1, or None"),
        ({"cu_seqlens": torch.tensor([0.0, 5.0])}, "float32 of shape .*; expected int32 or int64"),
        ({"cu_seqlens": torch.tensor([[0, 5]])}, r"of shape \(1, 2\) .*expected .* one dimension"),
        ({"cu_seqlens": torch.tensor([0, 4])}, r"is \[0, 4\]; expected .* number of tokens, 5"),
        ({"cu_seqlens": torch.tensor([1, 5])}, "expected ascending numbers from 0"),
        ({"cu_seqlens": torch.tensor([0, 3, 2, 5])}, "expected ascending numbers from 0"),
        ({"cu_seqlens": torch.tensor([5])}, "expected ascending numbers from 0"),
        (
            {"q_BHTD": torch.zeros(1, 2, 4, 8), "cu_seqlens": torch.tensor([0, 4])},
            "5 keys and 4 queries; expected as many keys as queries",
        ),
    ],
)
def test_a_mistake_is_named(change, message):
    q, k, v = inputs()
    arguments = {"q_BHTD": q, "k_BGSD": k, "v_BGSD": v, **change}
    with pytest.raises(UserError, match=message):
        attention(**arguments)
