"""The Triton attention, forward and every gradient, against the definition in float64."""

from dataclasses import dataclass

import pytest
import torch

from gptfast.errors import UserError
from gptfast.kernels import flash_attention
from gptfast.ops import attention
from gptfast.ops.attention import attention_reference
from tolerances import assert_close

pytestmark = pytest.mark.usefixtures("_poisoned")


@dataclass
class Case:
    """Sizes as in ops/attention.py; 16 wide and a little longer than a block unless it matters."""

    T: int = 70
    S: int = 70
    D: int = 16
    B: int = 1
    H: int = 1
    G: int = 1
    dtype: torch.dtype = torch.float32
    causal: bool = True
    scale: float | None = None
    window: int | None = None
    dropout_p: float = 0.0
    cu_seqlens: tuple[int, ...] | None = None

    def options(self, device):
        """What `attention` takes beside tensors."""
        names = ("causal", "scale", "window", "dropout_p")
        options = {name: getattr(self, name) for name in names}
        if self.cu_seqlens is not None:
            options["cu_seqlens"] = torch.tensor(self.cu_seqlens, device=device)
        return options

    def inputs(self, device):
        generator = torch.Generator().manual_seed(0)
        kv_shape = (self.B, self.G, self.S, self.D)
        return [
            torch.randn(shape, generator=generator).to(device, self.dtype)
            for shape in ((self.B, self.H, self.T, self.D), kv_shape, kv_shape)
        ]


def results(function, q, k, v, dout, **kwargs):
    """Return the output, dq, dk and dv."""
    leaves = [x.detach().requires_grad_() for x in (q, k, v)]
    torch.manual_seed(3)  # dropout
    out = function(*leaves, **kwargs)
    return [out, *torch.autograd.grad(out, leaves, dout)]


def check(q, k, v, **kwargs):
    """Compare everything that comes out."""
    generator = torch.Generator().manual_seed(1)
    dout = torch.randn(q.shape, generator=generator).to(q)
    actual = results(attention, q, k, v, dout, backend="triton", **kwargs)
    wide = [x.double() for x in (q, k, v, dout)]
    expected = results(attention_reference, *wide, **kwargs)
    for a, e in zip(actual, expected, strict=True):
        assert a.dtype == q.dtype
        assert_close("attention", a, e, q.dtype)


@pytest.mark.parametrize(
    "case",
    [
        Case(),
        Case(causal=False),
        Case(T=130, S=130, dtype=torch.float16),
        Case(T=130, S=130, dtype=torch.float16, causal=False),
        Case(T=64, S=64),  # a whole number of blocks
        Case(T=1, S=1),
        Case(T=1, S=40),  # one new token and its cache
        Case(T=7, S=70),
        Case(T=7, S=70, causal=False),
        Case(T=70, S=7),  # 63 queries see no key
        Case(T=70, S=7, causal=False),
        Case(T=5, S=5, D=17),
        Case(T=35, S=40, D=80, dtype=torch.float16),
        Case(T=17, S=17, D=128),
        Case(T=17, S=17, D=200),
        Case(T=35, S=35, D=256, dtype=torch.float16),
        Case(T=9, S=12, B=2, H=4, G=2),
        Case(T=35, S=35, H=3, G=1, dtype=torch.float16),
        Case(T=9, S=9, scale=0.7),
        Case(T=9, S=9, scale=-0.5),
        Case(T=9, S=9, scale=0.0),
        Case(window=1),  # each query sees itself alone
        Case(window=20),
        Case(window=20, causal=False),
        Case(T=140, S=140, window=70),  # whole blocks between two ragged edges
        Case(T=200, S=200, window=90, causal=False, dtype=torch.float16),
        Case(window=2**31 - 1),
        Case(window=2**31 - 1, causal=False),
        Case(T=7, S=70, window=30),
        Case(T=70, S=7, window=3),
        Case(T=7, S=70, window=30, causal=False),
        Case(T=35, S=40, scale=-3.0, causal=False),
        Case(cu_seqlens=(0, 1, 1, 30, 70)),
        Case(cu_seqlens=(0, 33, 70), causal=False),
        Case(T=140, S=140, cu_seqlens=(0, 3, 110, 140)),
        Case(T=20, S=20, B=3, H=2, G=1, cu_seqlens=(0, 5, 27, 60)),  # one crosses two rows
        Case(T=140, S=140, cu_seqlens=(0, 80, 140), window=40, causal=False),
        Case(dropout_p=0.3),
        Case(T=9, S=40, B=2, H=4, G=2, dropout_p=0.5),
        Case(T=130, S=130, dtype=torch.float16, dropout_p=0.1, causal=False),
        Case(dropout_p=0.2, window=30, cu_seqlens=(0, 50, 70), H=2),
    ],
    ids=str,
)
def test_agrees_with_the_definition(case, device):
    check(*case.inputs(device), **case.options(device))


HALF = [
    Case(T=150, S=150, H=2, G=1, dtype=torch.float16),
    Case(T=1, S=40, dtype=torch.float16),
    Case(T=70, S=7, D=40, dtype=torch.float16),
    Case(T=200, S=200, B=2, window=70, dtype=torch.float16),
    Case(T=20, S=20, B=3, H=2, G=1, cu_seqlens=(0, 5, 27, 60), dtype=torch.float16),
    Case(
        T=150, S=150, window=90, dropout_p=0.2, cu_seqlens=(0, 50, 150),
        dtype=torch.float16,
    ),
]  # fmt: skip


@pytest.mark.parametrize("by_copy_engine", [True, False])
@pytest.mark.parametrize("case", HALF, ids=str)
def test_tiles_by_the_copy_engine_and_by_pointers(case, by_copy_engine, device, monkeypatch):
    monkeypatch.setattr(flash_attention, "has_copy_engine", lambda device: by_copy_engine)
    if by_copy_engine and device == "cpu":
        # So that no pointer is taken by mistake: the interpreter looks a function up when called.
        monkeypatch.delattr(flash_attention, "_load")
    check(*case.inputs(device), **case.options(device))


def test_the_copy_engine_is_asked_for_what_it_can_load():
    def can_load(x):
        return flash_attention.by_copy_engine(x)

    x = torch.zeros(2, 4, 9, 64, dtype=torch.float16)
    flash_attention.has_copy_engine.cache_clear()
    assert can_load(x)
    assert can_load(torch.zeros(2, 9, 3, 4, 64, dtype=torch.bfloat16)[:, :, 1].transpose(1, 2))
    assert not can_load(x.float())
    assert not can_load(x[..., 1:33])  # starts between two steps of 16 bytes
    assert not can_load(x[..., :60].contiguous())  # a row of 120 bytes
    assert not can_load(x[..., ::2])
    assert not can_load(x[:, :1].expand(2, 4, 9, 64))


def fused_qkv():
    return torch.randn(2, 9, 3, 2, 16).unbind(2)  # three (B, T, H, D), none contiguous


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize(
    "make",
    [
        lambda: (x.transpose(1, 2) for x in fused_qkv()),
        lambda: (x.permute(0, 3, 1, 2) for x in torch.randn(3, 2, 9, 16, 2)),
        lambda: (x.mT for x in torch.randn(3, 2, 2, 16, 9)),
        lambda: (x[..., ::2, ::3] for x in torch.randn(3, 1, 2, 18, 48)),
        lambda: (torch.randn(2, 1, 9, 16).expand(2, 2, 9, 16) for _ in range(3)),
    ],
    ids=["fused qkv", "heads innermost", "transposed", "every second", "expanded"],
)
def test_any_strides(make, dtype, device):
    torch.manual_seed(0)
    check(*(x.to(device, dtype) for x in make()))


def test_a_gradient_with_strides_of_zero(device):
    q, k, v = (x.requires_grad_() for x in Case(T=5, S=5).inputs(device))
    actual = torch.autograd.grad(attention(q, k, v, backend="triton").sum(), (q, k, v))
    expected = torch.autograd.grad(attention_reference(q, k, v).sum(), (q, k, v))
    for a, e in zip(actual, expected, strict=True):
        assert_close("attention", a, e)


# The backward masks hidden keys after exp2, where they may be infinite.
@pytest.mark.filterwarnings("ignore:overflow encountered in exp2")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_logits_of_ten_thousand(dtype, device):
    q, k, v = Case(T=40, S=40, dtype=dtype).inputs(device)
    q, k = 50 * q.sign(), 50 * k.sign()  # sums of 16 times +-2,500, exact in every dtype
    for causal in (True, False):
        options = {"causal": causal, "scale": 0.25}
        dout = v.flip(2)
        assert (0.25 * q.double() @ k.double().mT).max() > 5_000
        actual = results(attention, q, k, v, dout, backend="triton", **options)
        wide = [x.double() for x in (q, k, v, dout)]
        expected = results(attention_reference, *wide, **options)
        for a, e in zip(actual, expected, strict=True):
            largest = e.abs().max()  # dq is a sum of keys of 50
            assert_close("attention", a.double() / largest, e / largest, dtype)


@pytest.mark.parametrize("by_copy_engine", [True, False])
def test_offsets_beyond_32_bits(by_copy_engine, device):
    row_stride = 2**31 // 3 + 6  # the last of these four rows starts after element 2^31
    torch.use_deterministic_algorithms(False)  # 4 GiB, of which next to nothing is touched
    storage = torch.empty(3 * row_stride + 16, dtype=torch.float16, device=device)
    torch.use_deterministic_algorithms(True)
    step = 16 if by_copy_engine else 0
    far = storage.as_strided((1, 1, 4, 16), (step, step, row_stride, 1))
    has_one = flash_attention.has_copy_engine(far.device)
    assert flash_attention.by_copy_engine(far) == (by_copy_engine and has_one)
    near = Case(T=4, S=4, dtype=torch.float16).inputs(device)[0]
    far.copy_(near)
    expected = attention(near, near, near, backend="triton")
    assert torch.equal(attention(far, far, far, backend="triton"), expected)


@pytest.mark.parametrize("case", [Case(T=40, S=40, H=2), Case(T=40, S=40, dropout_p=0.5)], ids=str)
def test_the_same_bits_twice(case, device):
    q, k, v = case.inputs(device)
    dout = torch.ones_like(q)
    options = {**case.options(device), "backend": "triton"}
    first, second = (results(attention, q, k, v, dout, **options) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_dropout_zeroes_as_many_weights_as_it_should(device):
    torch.manual_seed(0)
    q = torch.zeros(1, 4, 64, 64, device=device)
    identity = torch.eye(64, device=device).expand(1, 4, 64, 64)
    options = {"causal": False, "dropout_p": 0.25, "backend": "triton"}
    weights, others = (attention(q, q, identity, **options) for _ in range(2))
    kept = weights != 0
    torch.testing.assert_close(weights[kept], torch.full_like(weights[kept], 1 / 64 / 0.75))
    assert 0.74 < kept.double().mean() < 0.76  # 4 deviations
    # Heads, queries and calls differ: of any two masks 0.75^2 + 0.25^2 of the elements agree.
    for other in (kept.roll(1, 1), kept.roll(1, 2), kept.roll(1, 3), others != 0):
        assert 0.61 < (kept == other).double().mean() < 0.64


def test_weights_sum_to_one(device):
    q, k, v = Case(dtype=torch.float16).inputs(device)
    out = attention(q, k, torch.ones_like(v), backend="triton")
    assert_close("attention", out, torch.ones_like(out))


def test_the_future_leaves_no_trace(device):
    q, k, v = Case().inputs(device)
    before = attention(q, k, v, backend="triton")
    for x in (q, k, v):
        x[:, :, 50:] += 1
    after = attention(q, k, v, backend="triton")
    assert torch.equal(before[:, :, :50], after[:, :, :50])
    assert not torch.equal(before[:, :, 50:], after[:, :, 50:])


# opcheck itself reads the .grad of a tensor that is no leaf.
@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")
@pytest.mark.parametrize("has_all", [False, True])
def test_registration(has_all, device):
    arguments = [x.requires_grad_() for x in Case(T=5, S=5).inputs(device)]
    options = (None, None, True, 0.25, None, 0.0)
    if has_all:
        docs = torch.tensor([[[0, 0, 2, 2, 2], [2, 2, 5, 5, 5]]], device=device).int()
        options = (docs, torch.ones(1, device=device).long(), True, 0.25, 3, 0.5)
    torch.library.opcheck(torch.ops.gptfast.flash_attention.default, (*arguments, *options))


@pytest.mark.parametrize(
    "case",
    [Case(T=5, S=5), Case(T=5, S=5, dropout_p=0.5, window=3, cu_seqlens=(0, 2, 5))],
    ids=str,
)
def test_compiles_without_a_graph_break(case, device):
    options = case.options(device)

    def loss(q, k, v):
        return attention(q, k, v, backend="triton", **options).square().sum()

    def gradients(function):
        torch.manual_seed(0)
        return torch.autograd.grad(function(*leaves), leaves)

    leaves = [x.requires_grad_() for x in case.inputs(device)]
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    for actual, expected in zip(gradients(compiled), gradients(loss), strict=True):
        assert torch.equal(actual, expected)


def test_a_second_derivative_is_refused(device):
    q, k, v = (x.requires_grad_() for x in Case(T=3, S=3).inputs(device))
    loss = attention(q, k, v, backend="triton").square().sum()
    (gradient,) = torch.autograd.grad(loss, q, create_graph=True)
    with pytest.raises(UserError, match=r"has no second derivative: .*use_backend"):
        gradient.sum().backward()


def test_a_gradient_that_is_undefined_stays_undefined(device):
    q, k, v = (x.requires_grad_() for x in Case(T=3, S=3).inputs(device))
    out = torch._C._functions.UndefinedGrad()(attention(q, k, v, backend="triton"))
    assert torch.autograd.grad(out.sum(), (q, k, v), allow_unused=True) == (None, None, None)


def test_what_the_kernel_does_not_serve(device):
    q, k, v = Case(T=2, S=2, D=300).inputs(device)
    with pytest.raises(UserError, match="head widths up to 256, not 300"):
        attention(q, k, v, backend="triton")
    with pytest.raises(UserError, match=r"float16 and bfloat16, not .*float64"):
        attention(*(x[..., :16].double() for x in (q, k, v)), backend="triton")
