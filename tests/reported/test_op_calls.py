"""Ops as their callers use them: undefined gradients, torch.func, odd scales, wrong arguments.

Each test's comment names the report, of another project, that it follows.
"""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.func import grad, hessian, jvp, vmap
from torch.nn import functional as F

from gptfast import ops
from gptfast.errors import UserError


def randn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


HIDDEN, WEIGHT = randn(5, 3), randn(7, 3, seed=1)
TARGETS = torch.tensor([0, 6, -100, 2, 3])
Q, K, V = randn(1, 4, 3, 4), randn(1, 2, 3, 4, seed=1), randn(1, 2, 3, 4, seed=2)
COS, SIN = randn(3, 2, dtype=torch.float32), randn(3, 2, seed=1, dtype=torch.float32)
X, GAIN, BIAS = randn(3, 6), randn(6, seed=1), randn(6, seed=2)


def seeded_attention(*qkv, **options):
    torch.manual_seed(0)
    return ops.attention(*qkv, **options)


CALLS = {
    "attention": (lambda *x, **o: ops.attention(*x, **o), (Q, K, V)),
    "window": (lambda *x, **o: ops.attention(*x, window=2, **o), (Q, K, V)),
    "negative scale": (lambda *x, **o: ops.attention(*x, scale=-0.5, **o), (Q, K, V)),
    "zero scale": (lambda *x, **o: ops.attention(*x, scale=0.0, **o), (Q, K, V)),
    "dropout": (lambda *x, **o: seeded_attention(*x, dropout_p=0.3, **o), (Q, K, V)),
    "mean": (
        lambda *x, **o: ops.linear_cross_entropy(*x, TARGETS, softcap=2, **o),
        (HIDDEN, WEIGHT),
    ),
    "sum": (
        lambda *x, **o: ops.linear_cross_entropy(*x, TARGETS, reduction="sum", **o),
        (HIDDEN, WEIGHT),
    ),
    "none": (
        lambda *x, **o: ops.linear_cross_entropy(*x, TARGETS, reduction="none", **o),
        (HIDDEN, WEIGHT),
    ),
    "layer_norm": (lambda *x, **o: ops.layer_norm(*x, **o), (X, GAIN, BIAS)),
    "rms_norm": (lambda *x, **o: ops.rms_norm(*x, **o), (X, GAIN)),
    "rotary": (lambda *x, **o: ops.rotary(*x, COS, SIN, **o), (Q, K)),
}
EVERY_CALL = pytest.mark.parametrize("name", CALLS)


@EVERY_CALL
def test_undefined_gradients_and_inputs_without_a_gradient_pass_gradcheck(name):
    function, inputs = CALLS[name]
    # PyTorch draws no random numbers for a batch of gradients.
    assert gradcheck(
        function, [x.requires_grad_() for x in copies(inputs)], check_batched_grad=name != "dropout"
    )
    for i in range(len(inputs)):
        only = copies(inputs)
        only[i].requires_grad_()
        assert gradcheck(function, only, fast_mode=True)


def copies(tensors):
    return [x.detach().clone() for x in tensors]


@EVERY_CALL
def test_a_second_derivative_is_right_or_refused_in_one_line(name):
    function, inputs = CALLS[name]
    needed = [x.requires_grad_() for x in copies(inputs)]
    assert gradgradcheck(lambda *x: function(*x, backend="reference"), needed, fast_mode=True)
    if name in ("dropout", "mean", "sum", "none"):
        with pytest.raises(UserError, match=r"no second derivative: .*use_backend"):
            gradgradcheck(function, needed, fast_mode=True)


def plain_loss(hidden, weight, targets):
    return F.cross_entropy(hidden @ weight.T, targets)


# flash-attention#2071
@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_functional_transforms_of_the_loss_are_those_of_the_plain_loss():
    hiddens = randn(4, 5, 3, seed=3)
    args = (hiddens, WEIGHT, TARGETS)
    for transform in (
        lambda f: vmap(f, in_dims=(0, None, None)),
        lambda f: vmap(grad(f, argnums=(0, 1)), in_dims=(0, None, None)),
        lambda f: lambda h, w, y: grad(f, argnums=1)(h[0], w, y),
        lambda f: lambda h, w, y: jvp(lambda h: f(h, w, y), (h[0],), (h[1],)),
        lambda f: lambda h, w, y: hessian(f)(h[0], w, y),
    ):
        actual, expected = transform(ops.linear_cross_entropy)(*args), transform(plain_loss)(*args)
        torch.testing.assert_close(actual, expected)


def test_a_batch_of_calls_of_a_named_backend_is_the_calls_one_by_one():
    hiddens = randn(4, 5, 3, seed=3).requires_grad_()

    def loss(hidden, reduction):
        return ops.linear_cross_entropy(
            hidden, WEIGHT, TARGETS, reduction=reduction, backend="torch"
        )

    for reduction in ("mean", "none"):
        batched = vmap(lambda h, r=reduction: loss(h, r))(hiddens)
        expected = torch.stack([loss(h, reduction) for h in hiddens])
        torch.testing.assert_close(batched, expected)
        actual, wanted = (torch.autograd.grad(x.sum(), hiddens)[0] for x in (batched, expected))
        torch.testing.assert_close(actual, wanted)


def test_a_backend_without_a_rule_is_refused_instead_of_losing_the_gradient():
    def loss(hidden):
        return ops.linear_cross_entropy(hidden, WEIGHT, TARGETS, backend="torch")

    with pytest.raises(UserError, match=r"no rule for torch\.func .*: .*use_backend"):
        grad(loss)(HIDDEN)
    with pytest.raises(UserError, match=r"no rule for torch\.func"):
        jvp(loss, (HIDDEN,), (HIDDEN,))


# ---- scales --------------------------------------------------------------------------------------


def by_hand(q, k, v, scale, causal):
    """Attention of one batch entry in Python's floats; head h reads keys and values h // 2."""
    out = torch.empty_like(q)
    for h, t in np.ndindex(q.shape[1], q.shape[2]):
        seen = range(t + 1 if causal else k.shape[2])
        weights = [math.exp(scale * float(q[0, h, t] @ k[0, h // 2, s])) for s in seen]
        mixed = sum(w * v[0, h // 2, s] for w, s in zip(weights, seen, strict=True))
        out[0, h, t] = mixed / sum(weights)
    return out


@pytest.mark.parametrize("scale", [-0.3, -2, 0.0, -0.0, 0, 1e-60, -1e-300, np.float32(-0.3)])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("backend", [None, "torch", "reference"])
def test_a_scale_of_any_sign_is_the_definitions(scale, causal, backend):
    expected = by_hand(Q, K, V, float(scale), causal)
    actual = ops.attention(Q, K, V, scale=scale, causal=causal, backend=backend)
    torch.testing.assert_close(actual, expected)
    narrow = (x.to(torch.float32) for x in (Q, K, V))
    actual = ops.attention(*narrow, scale=scale, causal=causal, backend=backend)
    torch.testing.assert_close(actual, expected.float(), atol=1e-5, rtol=1e-5)
    if causal:
        last = ops.decode_attention(Q[:, :, -2:], K, V, scale=scale, backend=backend)
        torch.testing.assert_close(last, expected[:, :, -2:])
        dropped = ops.attention(Q, K, V, scale=scale, dropout_p=1e-9, backend=backend)
        torch.testing.assert_close(dropped, expected)  # by the path for dropout on the CPU


# ---- tracing -------------------------------------------------------------------------------------


def keys_and_queries(T, S):
    return randn(2, 4, T, 4), randn(2, 2, S, 4, seed=1), randn(2, 2, S, 4, seed=2)


# PyTorch's remarks: torch.jit is old, and the checks of shapes are not part of the trace.
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:`torch.jit")
@pytest.mark.parametrize("window", [None, 1, 8, 2**62])
@pytest.mark.parametrize("backend", [None, "reference"])
def test_a_trace_of_attention_serves_other_lengths_with_its_window(window, backend):
    def short(*qkv):
        return ops.attention(*qkv, window=window, backend=backend)

    def decode(q, k, v, lengths):
        return ops.decode_attention(q, k, v, lengths, window=window, backend=backend)

    T = S = 4
    traced = torch.jit.trace(short, keys_and_queries(T, S))
    decoded = torch.jit.trace(decode, (*keys_and_queries(2, S), torch.tensor([3, 4])))
    for n in (1, 3, 16):
        q, k, v = keys_and_queries(n, n)
        ahead = torch.arange(n) - torch.arange(n)[:, None]
        seen = (ahead <= 0) & (ahead > -min(window or n, n))
        expected = F.scaled_dot_product_attention(q, k, v, attn_mask=seen, enable_gqa=True)
        torch.testing.assert_close(traced(q, k, v), expected)
        if n > 1:
            actual = decoded(q[:, :, -2:], k, v, torch.tensor([n, n]))
            torch.testing.assert_close(actual, expected[:, :, -2:])


# ---- wrong arguments -----------------------------------------------------------------------------


NUMBERS = {
    "scale": lambda x: ops.attention(Q, K, V, scale=x),
    "scale of decode_attention": lambda x: ops.decode_attention(Q, K, V, scale=x),
    "dropout_p": lambda x: ops.attention(Q, K, V, dropout_p=x),
    "softcap": lambda x: ops.linear_cross_entropy(HIDDEN, WEIGHT, TARGETS, softcap=x),
    "eps": lambda x: ops.layer_norm(X, eps=x),
    "eps of rms_norm": lambda x: ops.rms_norm(X, eps=x),
    "p": lambda x: ops.dropout(X, x),
    "window": lambda x: ops.attention(Q, K, V, window=x),
    "window of decode_attention": lambda x: ops.decode_attention(Q, K, V, window=x),
    "ignore_index": lambda x: ops.linear_cross_entropy(HIDDEN, WEIGHT, TARGETS, ignore_index=x),
    "causal": lambda x: ops.attention(Q, K, V, causal=x),
}
WRONG = (
    torch.nn.Parameter(torch.tensor(0.5)),
    torch.tensor(0.5),
    "0.5",
    [0.5],
    np.ones((2, 2)),
    math.nan,
    math.inf,
    -math.inf,
    10**400,
    -(10**5000),  # too many digits for repr
    Fraction(10**400),
)


@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_of_another_type_is_refused_by_name_in_one_line(name):
    """A parameter as scale lost its gradient silently."""
    for value in (*WRONG, 2 if name == "causal" else True):
        with pytest.raises(UserError, match=f"{name.split()[0]} is .*[:;] expected") as raised:
            NUMBERS[name](value)
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize("value", [np.float32(0.5), np.float64(0.5), 0])
@pytest.mark.parametrize("name", ["scale", "dropout_p", "eps", "p"])
def test_numbers_of_numpy_and_whole_numbers_are_numbers(name, value):
    torch.manual_seed(0)
    actual = NUMBERS[name](value)
    torch.manual_seed(0)
    torch.testing.assert_close(actual, NUMBERS[name](float(value)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ops.attention(Q, K, V, cu_seqlens=[0, 3]), "cu_seqlens is a list; expected a T"),
        (lambda: ops.attention(Q, K, V, cu_seqlens=np.array([0, 3])), "cu_seqlens is a ndarray"),
        (lambda: ops.attention(Q, K, V, window=2.5), "window is 2.5: expected a whole"),
        (lambda: ops.attention(Q, K, V, window=2.0), "window is 2.0: expected a whole"),
        (lambda: ops.attention(Q, K, V, causal=1), "causal is 1: expected true or"),
        (lambda: ops.attention(Q.numpy(), K, V), "q is a ndarray; expected a Tensor"),
        (lambda: ops.decode_attention(Q, K, V, [3]), "lengths_B is a list; expected a Tensor"),
        (lambda: ops.linear_cross_entropy([1.0], WEIGHT, TARGETS), "hidden is a list"),
        (lambda: ops.linear_cross_entropy(HIDDEN, WEIGHT, [1]), "targets is a list"),
        (lambda: ops.linear_cross_entropy(HIDDEN, WEIGHT, TARGETS, reduction=None), "is None"),
        (lambda: ops.layer_norm([1.0]), "x is a list"),
        (lambda: ops.layer_norm(X, [1.0]), "weight is a list"),
        (lambda: ops.rms_norm(X, GAIN.cfloat()), "weight is torch.complex64; expected a floating"),
        (lambda: ops.layer_norm(X, eps=-1e-5), "eps is -1e-05; expected 0 or more"),
        (lambda: ops.rotary(Q, K, [1.0], SIN), "cos is a list"),
        (lambda: ops.dropout([1.0], 0.1), "x is a list"),
        (lambda: ops.dropout(torch.ones(3, dtype=torch.int64), 0.1), "x is torch.int64"),
        (lambda: ops.attention(Q, K, V, backend=["torch"]), "backend is"),
    ],
)
def test_an_argument_of_another_type_is_named_in_one_line(call, message):
    with pytest.raises(UserError, match=message) as raised:
        call()
    assert "\n" not in str(raised.value)
