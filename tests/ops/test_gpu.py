"""On a CUDA device: every kernel is at most twice as wrong as PyTorch's own op, and what else shows
only there. `python -m gptfast.bench gpu` makes the same checks.
"""

import pytest
import torch
import torch.nn.functional as F

from gptfast.bench.checks import checks, plain_linear_cross_entropy
from gptfast.bench.verify import verify
from gptfast.ops import layer_norm, linear_cross_entropy, rms_norm, rotary
from gptfast.ops.rotary import rotary_frequencies, rotary_reference, rotary_tables
from tolerances import assert_close

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
CHECKS = list(checks("cuda", tiny=False)) if torch.cuda.is_available() else ["each"]


def randn(*shape):
    return torch.randn(shape, device="cuda", dtype=torch.float32)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("check", CHECKS, ids=str)
def test_at_most_twice_as_wrong_as_pytorch(check, dtype):
    verdict = verify(check, dtype, "cuda")
    assert verdict.is_right, verdict


@pytest.mark.parametrize("backend", ["triton", "torch", "reference"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_norms_under_autocast(dtype, backend):
    x, weight = randn(3, 768).to(dtype), randn(768)
    with torch.autocast("cuda", torch.bfloat16):
        expected = F.layer_norm(x, (768,), weight)
        out = layer_norm(x, weight, backend=backend)
        assert rms_norm(x, weight, backend=backend).dtype == torch.float32
    assert out.dtype == expected.dtype == torch.float32
    assert_close("layer_norm", out, expected)


@pytest.mark.parametrize("backend", ["triton", "torch"])
def test_linear_cross_entropy_holds_a_fifth_of_the_plain_loss(backend):
    inputs = [randn(16_384, 768).bfloat16(), randn(50_304, 768).bfloat16()]
    targets = torch.randint(50_304, (16_384,), device="cuda")

    def peak(function, **kwargs):
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        leaves = [x.detach().requires_grad_() for x in inputs]
        torch.autograd.grad(function(*leaves, targets, **kwargs), leaves)
        return torch.cuda.max_memory_allocated() - before

    assert peak(linear_cross_entropy, backend=backend) <= peak(plain_linear_cross_entropy) / 5


# PyTorch has no op to compare with; test_rotary_kernel.py runs on a CUDA device too.
@pytest.mark.parametrize("dtype", DTYPES)
def test_rotary_by_default_at_the_size_of_a_model(dtype):
    torch.manual_seed(0)
    q, k = (randn(4, 1000, H, 128).to(dtype).transpose(1, 2) for H in (32, 8))
    tables = rotary_tables(torch.arange(1000, device="cuda"), rotary_frequencies(128))
    expected = rotary_reference(q.double(), k.double(), *tables)
    for a, e in zip(rotary(q, k, *tables), expected, strict=True):
        assert_close("rotary", a, e)
