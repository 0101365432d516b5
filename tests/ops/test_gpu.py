"""On a CUDA device: our half-precision kernels are at most twice as wrong as PyTorch's own."""

import pytest
import torch

from gptfast.ops import attention, layer_norm

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
@pytest.mark.parametrize("shape", [(8, 1024, 768), (3, 1), (100, 1025), (17, 65_536)])
def test_layer_norm(shape, dtype):
    torch.manual_seed(0)
    check(layer_norm, (randn(*shape), randn(shape[-1]), randn(shape[-1])), dtype)
