"""On a CUDA device: our half-precision kernels are at most twice as wrong as PyTorch's own."""

import pytest
import torch
import torch.nn.functional as F

from gptfast.ops import (
    attention,
    decode_attention,
    layer_norm,
    linear_cross_entropy,
    rms_norm,
    rotary,
)
from gptfast.ops.rotary import rotary_reference, rotary_tables
from tolerances import assert_close

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
DTYPES = [torch.float16, torch.bfloat16]


def randn(*shape):
    return torch.randn(shape, device="cuda", dtype=torch.float32)


def results(function, inputs, dout, **kwargs):
    leaves = [x.detach().requires_grad_() for x in inputs]
    out = function(*leaves, **kwargs)
    return [out, *torch.autograd.grad(out, leaves, dout)]


def check(function, inputs, dtype, **kwargs):
    """Compare the output and every gradient, by their largest error against float32."""
    inputs = [x.to(dtype) for x in inputs]
    dout = torch.randn_like(inputs[0])
    wide = [x.float() for x in inputs]
    expected = results(function, wide, dout.float(), backend="reference", **kwargs)
    ours = results(function, inputs, dout, backend="triton", **kwargs)
    theirs = results(function, inputs, dout, backend="torch", **kwargs)
    compare(ours, theirs, expected, dtype)


def compare(ours, theirs, expected, dtype):
    for our, their, e in zip(ours, theirs, expected, strict=True):
        # One rounding of the largest value is granted, should PyTorch happen to be exact.
        granted = torch.finfo(dtype).eps * e.abs().max()
        assert (our - e).abs().max() <= 2 * (their - e).abs().max() + granted


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(
    ("B", "H", "G", "T", "S", "D"),
    [
        (2, 12, 12, 1024, 1024, 64),
        (1, 8, 2, 1000, 1000, 128),
        (1, 4, 4, 77, 512, 96),
        (1, 2, 2, 300, 300, 256),
        (4, 8, 8, 1, 700, 64),
    ],
)
def test_attention(B, H, G, T, S, D, causal, dtype):
    torch.manual_seed(0)
    check(
        attention, (randn(B, H, T, D), randn(B, G, S, D), randn(B, G, S, D)), dtype, causal=causal
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("D", [64, 128])
@pytest.mark.parametrize("options", [{"window": 200}, {"cu_seqlens": [0, 300, 900, 2000]}], ids=str)
def test_attention_with_windows_and_documents(options, D, causal, dtype):
    torch.manual_seed(0)
    options = {
        name: torch.tensor(x, device="cuda") if isinstance(x, list) else x
        for name, x in options.items()
    }
    check(attention, [randn(2, 4, 1000, D) for _ in range(3)], dtype, causal=causal, **options)


# PyTorch's op has no soft cap, and drops other weights: the table of tolerances instead.
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("options", [{"softcap": 5.0}, {"dropout_p": 0.2}], ids=str)
def test_attention_with_a_soft_cap_and_with_dropout(options, dtype):
    inputs = [randn(2, 4, 1000, 64).to(dtype) for _ in range(3)]
    torch.manual_seed(0)
    out = attention(*inputs, backend="triton", **options)
    torch.manual_seed(0)
    expected = attention(*(x.float() for x in inputs), backend="reference", **options)
    assert_close("attention", out, expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("H", "G", "T", "D"), [(12, 12, 1, 64), (32, 8, 1, 128), (8, 2, 4, 96)])
def test_decode_attention(H, G, T, D, dtype):
    torch.manual_seed(0)
    inputs = [x.to(dtype) for x in (randn(3, H, T, D), randn(3, G, 8192, D), randn(3, G, 8192, D))]
    lengths = torch.tensor([5, 4000, 8192], device="cuda")
    expected = decode_attention(*(x.float() for x in inputs), lengths, backend="reference")
    ours, theirs = (decode_attention(*inputs, lengths, backend=b) for b in ("triton", "torch"))
    compare([ours], [theirs], [expected], dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(8, 1024, 768), (3, 1), (100, 1025), (17, 65_536)])
def test_layer_norm(shape, dtype):
    torch.manual_seed(0)
    check(layer_norm, (randn(*shape), randn(shape[-1]), randn(shape[-1])), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(8, 1024, 768), (3, 1), (100, 1025), (17, 65_536)])
def test_rms_norm_with_a_residual(shape, dtype):
    def both(x, weight, residual, **kwargs):
        out, summed = rms_norm(x, weight, residual=residual, **kwargs)
        return out + summed

    torch.manual_seed(0)
    check(both, (randn(*shape), randn(shape[-1]), randn(*shape)), dtype)


@pytest.mark.parametrize("backend", ["triton", "torch", "reference"])
@pytest.mark.parametrize("dtype", [torch.float32, *DTYPES])
def test_norms_under_autocast(dtype, backend):
    x, weight = randn(3, 768).to(dtype), randn(768)
    with torch.autocast("cuda", torch.bfloat16):
        expected = F.layer_norm(x, (768,), weight)
        out = layer_norm(x, weight, backend=backend)
        assert rms_norm(x, weight, backend=backend).dtype == torch.float32
    assert out.dtype == expected.dtype == torch.float32
    assert_close("layer_norm", out, expected)


def plain(hidden, weight, targets):
    return F.cross_entropy(F.linear(hidden, weight).float(), targets)


@pytest.mark.parametrize("backend", ["triton", "torch"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("M", "V", "C"), [(4096, 50_304, 768), (77, 50_257, 128), (5, 1, 8)])
def test_linear_cross_entropy(M, V, C, dtype, backend):
    torch.manual_seed(0)
    inputs = [randn(M, C).to(dtype), (randn(V, C) * C**-0.5).to(dtype)]
    targets = torch.randint(V, (M,), device="cuda")
    targets[::3] = -100
    dloss = torch.tensor(1.0, device="cuda")
    expected = results(plain, [x.float() for x in inputs], dloss, targets=targets)
    ours = results(linear_cross_entropy, inputs, dloss, targets=targets, backend=backend)
    theirs = results(plain, inputs, dloss, targets=targets)
    compare(ours, theirs, expected, dtype)


@pytest.mark.parametrize("backend", ["triton", "torch"])
def test_linear_cross_entropy_holds_a_fifth_of_the_plain_loss(backend):
    inputs = [randn(16_384, 768).bfloat16(), randn(50_304, 768).bfloat16()]
    targets = torch.randint(50_304, (16_384,), device="cuda")

    def peak(function, **kwargs):
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        results(function, inputs, torch.tensor(1.0, device="cuda"), targets=targets, **kwargs)
        return torch.cuda.max_memory_allocated() - before

    assert peak(linear_cross_entropy, backend=backend) <= peak(plain) / 5


# PyTorch has no op to compare with; test_rotary_kernel.py runs on a CUDA device too.
@pytest.mark.parametrize("dtype", [torch.float32, *DTYPES])
@pytest.mark.parametrize("inplace", [True, False])
def test_rotary_by_default_at_the_size_of_a_model(inplace, dtype):
    torch.manual_seed(0)
    q, k = (randn(4, 1000, H, 128).to(dtype).transpose(1, 2) for H in (32, 8))
    tables = rotary_tables(torch.arange(1000, device="cuda"), 128)
    expected = rotary_reference(q.double(), k.double(), *tables)
    for a, e in zip(rotary(q, k, *tables, inplace=inplace), expected, strict=True):
        assert_close("rotary", a, e)
