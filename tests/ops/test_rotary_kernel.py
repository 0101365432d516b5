"""The Triton rotary embedding, forward and every gradient, against the definition in float64."""

import pytest
import torch

from gptfast.kernels import rotary as kernels
from gptfast.ops import rotary
from gptfast.ops.rotary import rotary_frequencies, rotary_reference, rotary_tables
from tolerances import assert_close

pytestmark = pytest.mark.usefixtures("_poisoned")


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def results(function, q, k, tables, douts, **kwargs):
    """Return the rotated q and k and the gradients of both."""
    leaves = [x.detach().requires_grad_() for x in (q, k)]
    rotated = function(*leaves, *tables, **kwargs)
    return [*rotated, *torch.autograd.grad(rotated, leaves, douts)]


def check(q, k, tables):
    douts = [randn(*x.shape, seed=4 + i).to(x) for i, x in enumerate((q, k))]
    actual = results(rotary, q, k, tables, douts, backend="triton")
    wide = [x.double() for x in (q, k)]
    expected = results(rotary_reference, *wide, tables, [dout.double() for dout in douts])
    for a, e in zip(actual, expected, strict=True):
        assert a.dtype == q.dtype
        assert_close("rotary", a, e)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("batched", "pairs"), [(True, 3), (False, 4)])
def test_agrees_with_the_definition(batched, pairs, dtype, device):
    q, k = (randn(2, n, 5, 8, seed=n).to(device, dtype) for n in (3, 2))
    table_shape = (2, 5, pairs) if batched else (5, pairs)
    check(q, k, [randn(*table_shape, seed=i).to(device) for i in (5, 6)])


@pytest.mark.parametrize(
    ("H", "G", "T", "D", "pairs"),
    [(1, 1, 1, 2, 1), (3, 1, 2, 257, 128), (2, 2, 3, 96, 5), (2, 5, 3, 7, 3)],
)
def test_any_size(H, G, T, D, pairs, device):
    tables = [randn(T, pairs, seed=i).to(device) for i in (5, 6)]
    check(randn(1, H, T, D).to(device), randn(1, G, T, D, seed=1).to(device), tables)


def test_more_heads_than_a_tile_holds(device, monkeypatch):
    monkeypatch.setattr(kernels, "MAX_TILE", 8)
    q, k = (randn(1, n, 2, 9, seed=n).to(device) for n in (5, 3))
    check(q, k, [randn(2, 4, seed=i).to(device) for i in (5, 6)])


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x.transpose(1, 2),
        lambda x: x.mT,
        lambda x: x[..., ::2],
        lambda x: x.flip(1)[:, 1:, 1:, 1:],
        lambda x: x[:1, :, :1].expand(2, -1, 3, -1),
    ],
    ids=["time before heads", "time last", "every second channel", "a part", "expanded"],
)
def test_any_strides(view, device):
    q, k = (view(randn(2, 3, 5, 8, seed=i).to(device)) for i in range(2))
    B, _, T, _ = q.shape
    cos, sin = randn(2, B, T, seed=5).to(device).permute(1, 2, 0), randn(B, T, 2, seed=6).to(device)
    check(q, k, (cos, sin))


def test_offsets_beyond_32_bits(device, monkeypatch):
    # Few pages of it are used, and the others not even filled.
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", False)
    memory = torch.empty(2**31 + 8, dtype=torch.float16, device=device)
    q = memory.as_strided((1, 3, 1, 4), (1, 2**30, 1, 1))
    k = memory.as_strided((1, 3, 1, 4), (1, 2**30, 1, 1), 4)
    q.copy_(randn(1, 3, 1, 4)), k.copy_(randn(1, 3, 1, 4, seed=1))
    tables = [randn(1, 2, seed=i).to(device) for i in (5, 6)]
    check(q, k, tables)


# ---- autograd ------------------------------------------------------------------------------------


def example(device):
    q, k = (randn(2, n, 3, 7, seed=n).to(device).requires_grad_() for n in (2, 1))
    return q, k, rotary_tables(torch.arange(3, device=device), rotary_frequencies(6))


def test_only_the_tables_are_kept_for_the_backward(device):
    q, k, tables = example(device)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(kept.append, lambda _: None):
        rotary(q, k, *tables, backend="triton")
    assert [x.data_ptr() for x in kept] == [x.data_ptr() for x in tables]


def test_the_gradient_given_is_not_overwritten(device):
    q, k, tables = example(device)
    rotated = rotary(q, k, *tables, backend="triton")
    given = [randn(*x.shape, seed=9).to(device) for x in rotated]
    before = [x.clone() for x in given]
    torch.autograd.grad(rotated, (q, k), given)
    assert all(map(torch.equal, given, before))


@pytest.mark.parametrize("used", [0, 1])
def test_one_of_the_two_alone(used, device):
    q, k, tables = example(device)
    gradients = [
        # The gradient of a sum is one number, expanded.
        torch.autograd.grad(rotary(q, k, *tables, backend=backend)[used].sum(), (q, k)[used])[0]
        for backend in ("triton", "reference")
    ]
    assert_close("rotary", *gradients)


def test_a_second_derivative(device):
    q, k, tables = example(device)

    def second(backend):
        q_rotated, k_rotated = rotary(q, k, *tables, backend=backend)
        loss = (q_rotated * k_rotated).pow(3).sum()
        gradients = torch.autograd.grad(loss, (q, k), create_graph=True)
        return torch.autograd.grad(sum(g.sin().sum() for g in gradients), (q, k))

    torch.testing.assert_close(second("triton"), second("reference"), rtol=1e-4, atol=1e-5)


# opcheck itself reads the .grad of a tensor that is no leaf.
@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")
@pytest.mark.parametrize("inverse", [True, False])
def test_registration(inverse, device):
    q, k, tables = example(device)
    if inverse:
        q, k = q.mT.contiguous().mT, k.detach()
    torch.library.opcheck(torch.ops.gptfast.rotary.default, (q, k, *tables, inverse))


def test_compiles_without_a_graph_break(device):
    q, k, tables = example(device)

    def loss(q, k):
        q_rotated, k_rotated = rotary(q, k, *tables, backend="triton")
        return (q_rotated * k_rotated).sin().sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    for actual, expected in zip(
        torch.autograd.grad(compiled(q, k), (q, k)),
        torch.autograd.grad(loss(q, k), (q, k)),
        strict=True,
    ):
        assert torch.equal(actual, expected)
