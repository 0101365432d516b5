"""The Triton cross entropy in the chunked op, loss and gradients, against the definition."""

import pytest
import torch
import torch.nn.functional as F

from gptfast.errors import UserError
from gptfast.kernels.cross_entropy import cross_entropy
from gptfast.ops import linear_cross_entropy
from gptfast.ops.linear_cross_entropy import linear_cross_entropy_reference
from gptfast.ops.logit_chunks import tokens_at_a_time
from tolerances import assert_close

pytestmark = pytest.mark.usefixtures("_poisoned")

OPTIONS = [
    {},
    {"softcap": 1.5},
    {"softcap": 1.5, "ignore_index": 2},
]


def inputs(shape, V, device, dtype=torch.float32):
    """Hidden, weight, and targets of which every third is ignored: as -100 and as 2."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(shape, generator=generator).to(device, dtype)
    weight = torch.randn(V, shape[-1], generator=generator).to(device, dtype)
    targets = torch.randint(V, shape[:-1], generator=generator).to(device)
    targets.view(-1)[::3] = -100
    return hidden, weight, targets


def results(function, hidden, weight, targets, **kwargs):
    """Return the loss and both gradients."""
    leaves = [x.detach().requires_grad_() for x in (hidden, weight)]
    loss = function(*leaves, targets, **kwargs)
    return [loss, *torch.autograd.grad(3 * loss, leaves)]


def check(hidden, weight, targets, **options):
    actual = results(linear_cross_entropy, hidden, weight, targets, backend="triton", **options)
    expected = results(
        linear_cross_entropy_reference, hidden.double(), weight.double(), targets, **options
    )
    assert [a.dtype for a in actual] == [torch.float32, hidden.dtype, weight.dtype]
    for a, e in zip(actual, expected, strict=True):
        assert_close("linear_cross_entropy", a, e, hidden.dtype)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_agrees_with_the_definition(dtype, options, device):
    hidden, weight, targets = inputs((3, 5, 8), 37, device, dtype)
    targets[targets < 0] = options.get("ignore_index", -100)
    check(hidden, weight, targets, **options)


@pytest.mark.parametrize("V", [1, 2, 129, 4096, 4097, 50_257])
def test_any_vocabulary(V, device):
    check(*inputs((4, 4), V, device), softcap=5.0)


@pytest.mark.parametrize("V", [16_384, 16_385, 40_000])
def test_blocks_of_a_row_without_a_cap(V, device):
    hidden, weight, targets = inputs((4, 4), V, device)
    # With larger logits the matrix products lose digits over so many terms, PyTorch's as well.
    check(hidden / 4, weight, targets)


def test_the_largest_vocabulary_we_name(device):
    # Without the matrix products, which in float32 lose digits over so many terms.
    logits = torch.randn(2, 262_144, generator=torch.Generator().manual_seed(0)).to(device)
    targets = torch.tensor([0, 262_143], device=device)
    wide = logits.double().requires_grad_()
    expected = F.cross_entropy(wide, targets, reduction="none")
    expected.sum().backward()
    losses = cross_entropy(logits, targets, -100, None, True)
    assert_close("linear_cross_entropy", losses, expected)
    torch.testing.assert_close(logits.double(), wide.grad, rtol=1e-4, atol=1e-10)


def test_more_tokens_than_a_chunk(device):
    chunk = tokens_at_a_time(4, torch.float32, torch.device(device), use_triton=True)
    check(*inputs((chunk + 4, 4), 5, device))


def test_no_tokens(device):
    hidden, weight, targets = inputs((0, 4), 5, device)
    loss, dhidden, dweight = results(
        linear_cross_entropy, hidden, weight, targets, backend="triton"
    )
    assert loss.isnan()
    assert dhidden.shape == hidden.shape
    assert not dweight.any()


@pytest.mark.parametrize(
    "view",
    [lambda x: x[..., ::2], lambda x: x.transpose(0, 1), lambda x: x[:, :1].expand(-1, 3, -1)],
    ids=["every second", "rows swapped", "expanded"],
)
def test_any_strides(view, device):
    hidden, _, targets = inputs((3, 4, 6), 7, device)
    hidden = view(hidden)
    _, weight, targets = inputs((*hidden.shape[:-1], 2 * hidden.shape[-1]), 7, device)
    targets = torch.stack((targets, targets), -1)[..., 0]  # every second element of memory
    check(hidden, weight[:, ::2], targets)


def test_large_logits(device):
    hidden, weight, targets = inputs((6, 4), 5000, device)
    hidden = hidden * 1e4
    actual = results(linear_cross_entropy, hidden, weight, targets, backend="triton")
    expected = results(linear_cross_entropy_reference, hidden.double(), weight.double(), targets)
    torch.testing.assert_close(actual[0].double(), expected[0], rtol=1e-5, atol=0.0)
    for a, e in zip(actual[1:], expected[1:], strict=True):
        assert (a - e).norm() < 1e-2 * e.norm()


def test_a_logit_of_minus_infinity(device):
    # As where half precision overflows: the first block of the row holds nothing else.
    hidden, weight, targets = inputs((2, 2), 5000, device, torch.float16)
    hidden[:], targets[:] = 60_000, 4999
    weight[:4500] = -2.0
    weight[4500:] = 1e-4
    loss = linear_cross_entropy(hidden, weight, targets, backend="triton")
    assert_close("linear_cross_entropy", loss, torch.tensor(500.0).log().to(loss))


@pytest.mark.parametrize("target", [5, -1, 2**40])
def test_a_target_outside_makes_the_loss_nan(target, device):
    hidden, weight, targets = inputs((4, 3), 5, device)
    targets[1] = target
    # On the CPU the public function names it; on CUDA that would wait for the GPU.
    loss, dhidden, _ = torch.ops.gptfast.linear_cross_entropy(
        hidden, weight, targets, -100, None, True, True, True
    )
    assert loss.isnan()
    assert dhidden[1].isnan().all()
    assert dhidden[2].isfinite().all()


@pytest.mark.parametrize("softcap", [None, 1.5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_each_tokens_loss_agrees_with_the_definition(dtype, softcap, device):
    hidden, weight, targets = inputs((3, 5, 8), 37, device, dtype)
    dlosses = torch.randn(targets.shape, generator=torch.Generator().manual_seed(1)).to(device)

    def token_results(function, hidden, weight, **kwargs):
        leaves = [x.detach().requires_grad_() for x in (hidden, weight)]
        losses = function(*leaves, targets, reduction="none", softcap=softcap, **kwargs)
        return [losses, *torch.autograd.grad(losses, leaves, dlosses.to(losses))]

    actual = token_results(linear_cross_entropy, hidden, weight, backend="triton")
    expected = token_results(linear_cross_entropy_reference, hidden.double(), weight.double())
    assert [a.dtype for a in actual] == [torch.float32, dtype, dtype]
    for a, e in zip(actual, expected, strict=True):
        scale = max(1.0, e.abs().max().item())  # the weight's gradient sums many tokens
        assert_close("linear_cross_entropy", a.double() / scale, e / scale, dtype)


def test_the_same_bits_twice(device):
    arguments = inputs((40, 8), 30, device)
    first, second = (
        results(linear_cross_entropy, *arguments, backend="triton", softcap=2.0) for _ in range(2)
    )
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


# opcheck itself reads the .grad of a tensor that is no leaf.
@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")
def test_registration(device):
    hidden, weight, targets = inputs((7, 3), 5, device)
    leaves = [x.requires_grad_() for x in (hidden, weight)]
    torch.library.opcheck(
        torch.ops.gptfast.linear_cross_entropy.default,
        (*leaves, targets, -100, 2.0, True, True, True),
    )


def test_compiles_without_a_graph_break(device):
    def function(*arguments):
        return linear_cross_entropy(*arguments, backend="triton", softcap=2.0).sin()

    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    for actual, expected in zip(
        results(compiled, *inputs((7, 3), 5, device)),
        results(function, *inputs((7, 3), 5, device)),
        strict=True,
    ):
        assert torch.equal(actual, expected)


def test_what_the_kernel_does_not_serve(device):
    hidden, weight, targets = inputs((7, 3), 5, device, torch.float64)
    with pytest.raises(UserError, match=r"the kernels take .*, not torch.float64"):
        linear_cross_entropy(hidden, weight, targets, backend="triton")
