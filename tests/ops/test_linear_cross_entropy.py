"""The definition against hand-written loops and PyTorch, and the chunked backend against it."""

import math

import pytest
import torch
import torch.nn.functional as F

from allocations import largest_and_peak
from gptfast.errors import UserError
from gptfast.ops import linear_cross_entropy
from gptfast.ops.linear_cross_entropy import linear_cross_entropy_reference
from tolerances import assert_close

OPTIONS = [
    {},
    {"softcap": 1.5},
    {"softcap": 1.5, "ignore_index": 2},
]
DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


def inputs(shape, V, dtype=torch.float32, seed=0):
    """Hidden, weight, and targets of which about one in four is -100."""
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(shape, generator=generator).to(dtype)
    weight = torch.randn(V, shape[-1], generator=generator).to(dtype)
    targets = torch.randint(V, shape[:-1], generator=generator)
    targets[torch.rand(shape[:-1], generator=generator) < 0.25] = -100
    return hidden, weight, targets


def results(function, hidden, weight, targets, factor=1.0, **kwargs):
    """Return the loss and both gradients of `factor` times the loss."""
    leaves = [x.detach().requires_grad_() for x in (hidden, weight)]
    loss = function(*leaves, targets, **kwargs)
    return [loss, *torch.autograd.grad(factor * loss, leaves)]


def pytorch(hidden, weight, targets, **kwargs):
    logits = F.linear(hidden, weight).flatten(0, -2)
    return F.cross_entropy(logits, targets.flatten(), **kwargs)


def by_hand(hidden, weight, targets, ignore_index=-100, softcap=None):
    """The docstring's formula in Python's floats, token by token."""
    losses = []
    for h, target in zip(hidden.tolist(), targets.tolist(), strict=True):
        if target == ignore_index:
            continue
        x = [sum(a * b for a, b in zip(h, w, strict=True)) for w in weight.tolist()]
        if softcap is not None:
            x = [softcap * math.tanh(logit / softcap) for logit in x]
        losses.append(math.log(sum(math.exp(logit) for logit in x)) - x[target])
    return sum(losses) / len(losses)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("backend", ["torch", "reference"])
def test_is_the_formula(backend, options):
    hidden, weight, _ = inputs((6, 3), 5, torch.float64)
    targets = torch.tensor([4, 2, 0, 2, 1, 3])
    loss = linear_cross_entropy(hidden, weight, targets, backend=backend, **options)
    expected = by_hand(hidden, weight, targets, **options)
    assert_close("linear_cross_entropy", loss, torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("options", OPTIONS)
def test_reference_gradients(options):
    hidden, weight, _ = (
        x.requires_grad_(x.is_floating_point()) for x in inputs((4, 3), 5, torch.float64)
    )
    targets = torch.tensor([4, 2, -100 if "ignore_index" not in options else 2, 1])
    assert torch.autograd.gradcheck(
        lambda h, w: linear_cross_entropy_reference(h, w, targets, **options), (hidden, weight)
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shape", "V"), [((5, 4), 7), ((2, 3, 4), 1), ((300, 8), 65)])
@pytest.mark.parametrize("backend", ["torch", "reference"])
def test_agrees_with_pytorch(backend, shape, V, dtype):
    # 300 tokens are more than a chunk.
    hidden, weight, targets = inputs(shape, V, dtype)
    actual = results(linear_cross_entropy, hidden, weight, targets, factor=3.0, backend=backend)
    expected = results(pytorch, hidden.double(), weight.double(), targets, factor=3.0)
    assert actual[0].dtype == torch.promote_types(dtype, torch.float32)
    for a, e, like in zip(actual[1:], expected[1:], (hidden, weight), strict=True):
        assert a.dtype == like.dtype
        assert_close("linear_cross_entropy", a, e)
    assert_close("linear_cross_entropy", actual[0], expected[0], dtype)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_chunks_agree_with_the_definition(dtype, options):
    hidden, weight, targets = inputs((3, 171, 5), 11, dtype)
    targets = targets.clamp(min=0) if "ignore_index" in options else targets
    actual = results(linear_cross_entropy, hidden, weight, targets, backend="torch", **options)
    expected = results(
        linear_cross_entropy_reference, hidden.double(), weight.double(), targets, **options
    )
    for a, e in zip(actual, expected, strict=True):
        assert_close("linear_cross_entropy", a, e, dtype)


def test_half_precision_gradients_do_not_vanish():
    # A gradient of the mean over 4,096 tokens is less than float16's smallest number for most.
    hidden, weight, targets = inputs((4096, 4), 512, torch.float16)
    factor = 4096.0  # as a GradScaler multiplies it
    actual = results(linear_cross_entropy, hidden, weight, targets, factor, backend="torch")
    expected = results(pytorch, hidden.double(), weight.double(), targets, factor)
    for a, e in zip(actual[1:], expected[1:], strict=True):
        assert (a - e).norm() < 2e-3 * e.norm()


def test_the_factor_of_the_backward_is_not_rounded():
    gradient = torch.arange(1.0, 128.0)
    scaled, _ = torch.ops.gptfast.linear_cross_entropy_backward(
        torch.tensor(1 / 3), gradient[:, None].bfloat16(), gradient[:, None]
    )
    assert torch.equal(scaled[:, 0], (gradient.double() / 3).bfloat16())


@pytest.mark.parametrize("backend", ["torch", "reference"])
def test_large_logits(backend):
    hidden, weight, targets = inputs((5, 4), 7)
    hidden *= 1e4
    actual = results(linear_cross_entropy, hidden, weight, targets, backend=backend)
    expected = results(pytorch, hidden.double(), weight.double(), targets)
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a.double(), e, rtol=1e-5, atol=1e-2)


@pytest.mark.parametrize("backend", ["torch", "reference"])
def test_no_token_that_counts(backend):
    hidden, weight, _ = inputs((4, 3), 5)
    targets = torch.full((4,), -100)
    for function, kwargs in ((linear_cross_entropy, {"backend": backend}), (pytorch, {})):
        loss, *gradients = results(function, hidden, weight, targets, **kwargs)
        assert loss.isnan()
        assert not any(gradient.any() for gradient in gradients)
    no_tokens = linear_cross_entropy(hidden[:0], weight, targets[:0], backend=backend)
    assert no_tokens.isnan()


@pytest.mark.parametrize("backend", ["torch", "reference"])
def test_one_token_without_a_dimension(backend):
    hidden, weight, _ = inputs((3,), 5)
    loss = linear_cross_entropy(hidden, weight, torch.tensor(4), backend=backend)
    assert_close("linear_cross_entropy", loss, F.cross_entropy(weight @ hidden, torch.tensor(4)))


def test_only_the_gradients_that_are_wanted():
    hidden, weight, targets = inputs((7, 3), 5)
    _, dhidden, dweight = results(linear_cross_entropy, hidden, weight, targets, backend="torch")
    for leaf, others, expected in (
        (hidden, (weight, targets), dhidden),
        (weight, (hidden, targets), dweight),
    ):
        leaf = leaf.clone().requires_grad_()
        arguments = (leaf, *others) if leaf.shape == hidden.shape else (others[0], leaf, others[1])
        linear_cross_entropy(*arguments, backend="torch").backward()
        assert torch.equal(leaf.grad, expected)
    with torch.no_grad():
        assert not linear_cross_entropy(hidden.requires_grad_(), weight, targets).requires_grad


def test_the_same_bits_twice():
    arguments = inputs((600, 8), 40)
    first, second = (
        results(linear_cross_entropy, *arguments, backend="torch", softcap=2.0) for _ in range(2)
    )
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_backward_twice_adds_up():
    hidden, weight, targets = inputs((7, 3), 5)
    loss = linear_cross_entropy(hidden.requires_grad_(), weight, targets, backend="torch")
    loss.backward(retain_graph=True)
    once = hidden.grad.clone()
    loss.backward()
    assert torch.equal(hidden.grad, 2 * once)


# A remark of PyTorch 2.11.
@pytest.mark.filterwarnings("ignore:.*Profiler clears events")
def test_the_logits_never_exist_whole():
    # A sixteenth of 16,384 tokens by 50,304 with 768 channels, in each.
    M, V, C = 1024, 3144, 48
    hidden, weight, targets = inputs((M, C), V)

    def run(backend):
        return largest_and_peak(
            lambda: results(linear_cross_entropy, hidden, weight, targets, backend=backend)
        )

    largest, peak = run("torch")
    whole, plain_peak = run("reference")
    assert whole >= M * V * 4  # the measurement sees them where they do exist
    assert largest <= M * V * 4 / 4
    assert peak <= plain_peak / 5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast(dtype):
    hidden, weight, targets = inputs((7, 3), 5)
    rounded = [x.to(dtype) for x in (hidden, weight)]
    expected = results(linear_cross_entropy, *rounded, targets, backend="torch")
    for backend in ("torch", "reference"):
        with torch.autocast("cpu", dtype):
            actual = results(linear_cross_entropy, hidden, weight, targets, backend=backend)
            plain = results(pytorch, hidden, weight, targets)
            wide = linear_cross_entropy(hidden.double(), weight.double(), targets, backend=backend)
        assert [a.dtype for a in actual] == [p.dtype for p in plain] == [torch.float32] * 3
        assert wide.dtype == torch.float64
        for a, p, e in zip(actual, plain, expected, strict=True):
            assert_close("linear_cross_entropy", a, p, dtype)
            if backend == "torch":
                assert torch.equal(a, e.float())


# opcheck itself reads the .grad of a tensor that is no leaf.
@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")
@pytest.mark.parametrize("needs", [(True, True), (True, False), (False, True), (False, False)])
def test_registration(needs):
    hidden, weight, targets = inputs((7, 3), 5)
    leaves = [x.requires_grad_(n) for x, n in zip((hidden, weight), needs, strict=True)]
    torch.library.opcheck(
        torch.ops.gptfast.linear_cross_entropy.default,
        (*leaves, targets, -100, 2.0, *needs, False),
    )
    torch.library.opcheck(
        torch.ops.gptfast.linear_cross_entropy_backward.default,
        (torch.tensor(2.0), hidden.detach().half(), weight.detach()),
    )


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("backend", ["torch", "reference"])
def test_compiles_without_a_graph_break(backend, autocast):
    hidden, weight, targets = inputs((7, 3), 5)

    def function(*arguments):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            return linear_cross_entropy(*arguments, backend=backend, softcap=2.0).sin()

    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    for actual, expected in zip(
        results(compiled, hidden, weight, targets),
        results(function, hidden, weight, targets),
        strict=True,
    ):
        assert torch.equal(actual, expected)


def test_a_second_derivative_is_refused():
    hidden, weight, targets = inputs((7, 3), 5)
    hidden.requires_grad_()
    loss = linear_cross_entropy(hidden, weight, targets, backend="torch")
    (gradient,) = torch.autograd.grad(loss, hidden, create_graph=True)
    with pytest.raises(UserError, match=r"has no second derivative: .*use_backend"):
        gradient.sum().backward()


def test_shapes_on_the_meta_device():
    hidden, weight, targets = (x.to("meta") for x in inputs((7, 3), 5))
    for actual, like in zip(
        results(linear_cross_entropy, hidden, weight, targets),
        (torch.tensor(0.0), hidden, weight),
        strict=True,
    ):
        assert (actual.shape, actual.dtype) == (like.shape, like.dtype)


hidden, weight, targets = torch.zeros(2, 3), torch.zeros(5, 3), torch.zeros(2, dtype=torch.long)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((hidden.long(), weight, targets), {}, "expected a floating dtype"),
        ((torch.tensor(1.0), weight, targets), {}, r"expected .* \(..., channels\)"),
        ((hidden, weight.T, targets), {}, r"weight has shape \(3, 5\); expected \(vocabulary, 3\)"),
        ((hidden, weight[:0], targets), {}, r"weight has shape \(0, 3\)"),
        ((hidden, weight.half(), targets), {}, "weight is torch.float16 on cpu; move them to one"),
        ((hidden, weight, targets[:1]), {}, r"targets have shape \(1,\) on cpu; expected \(2,\)"),
        ((hidden, weight, targets.int()), {}, "targets are torch.int32; expected torch.int64"),
        ((hidden, weight, targets + 5), {}, "a target is 5; expected 0 to 4, or -100"),
        ((hidden, weight, targets - 100), {"ignore_index": -1}, "a target is -100; .* or -1"),
        (
            (hidden, weight, targets),
            {"reduction": "median"},
            "reduction is 'median'; expected 'm",
        ),
        ((hidden, weight, targets), {"softcap": 0.0}, "softcap is 0.0; expected more than 0"),
    ],
)
def test_a_mistake_is_named(arguments, options, message):
    with pytest.raises(UserError, match=message):
        linear_cross_entropy(*arguments, **options)


# ---- each token's loss ---------------------------------------------------------------------------


def token_results(function, hidden, weight, targets, dlosses, **kwargs):
    """Return each token's loss and the gradients of the losses' sum, weighted by dlosses."""
    leaves = [x.detach().requires_grad_() for x in (hidden, weight)]
    losses = function(*leaves, targets, **kwargs)
    return [losses, *torch.autograd.grad(losses, leaves, dlosses.to(losses))]


def token_losses_of_pytorch(hidden, weight, targets, softcap=None):
    logits = F.linear(hidden, weight).flatten(0, -2)
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    return F.cross_entropy(logits, targets.flatten(), reduction="none").view(targets.shape)


@pytest.mark.parametrize("softcap", [None, 1.5])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shape", "V"), [((5, 4), 7), ((2, 3, 4), 1), ((3, 171, 8), 65)])
@pytest.mark.parametrize("backend", ["torch", "reference"])
def test_each_tokens_loss_agrees_with_pytorch(backend, shape, V, dtype, softcap):
    # 3 x 171 tokens are more than a chunk.
    hidden, weight, targets = inputs(shape, V, dtype)
    dlosses = torch.randn(targets.shape, generator=torch.Generator().manual_seed(1))
    actual = token_results(
        linear_cross_entropy, hidden, weight, targets, dlosses,
        reduction="none", softcap=softcap, backend=backend,
    )  # fmt: skip
    expected = token_results(
        token_losses_of_pytorch, hidden.double(), weight.double(), targets, dlosses, softcap=softcap
    )
    assert actual[0].shape == targets.shape
    assert actual[0].dtype == torch.promote_types(dtype, torch.float32)
    assert [a.dtype for a in actual[1:]] == [dtype, dtype]
    assert not actual[0][targets == -100].any()
    for a, e in zip(actual, expected, strict=True):
        scale = max(1.0, e.abs().max().item())  # the weight's gradient sums many tokens
        assert_close("linear_cross_entropy", a.double() / scale, e / scale, dtype)


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_the_mean_is_that_of_the_tokens_losses(reduction):
    hidden, weight, targets = inputs((3, 171, 5), 11, torch.float64)

    def mean(*leaves):
        loss = linear_cross_entropy(*leaves, targets, reduction=reduction, backend="torch")
        return loss if reduction == "mean" else loss.sum() / (targets != -100).sum()

    leaves = [x.requires_grad_() for x in (hidden, weight)]
    actual = [mean(*leaves), *torch.autograd.grad(mean(*leaves), leaves)]
    for a, e in zip(actual, results(pytorch, hidden, weight, targets), strict=True):
        assert_close("linear_cross_entropy", a, e)


def test_half_precision_gradients_of_tokens_do_not_vanish():
    # A gradient that a mean has made small: the hidden states times it are below float16's normal
    # numbers, the weight's gradient is not.
    hidden, weight, targets = inputs((4096, 4), 8, torch.float16)
    dlosses = torch.full((4096,), 2.0**-22)
    *_, actual = token_results(
        linear_cross_entropy, hidden, weight, targets, dlosses, reduction="none", backend="torch"
    )
    *_, expected = token_results(
        token_losses_of_pytorch, hidden.double(), weight.double(), targets, dlosses
    )
    assert (actual - expected).norm() < 2e-3 * expected.norm()


def test_tokens_without_a_gradient_or_without_tokens():
    hidden, weight, targets = inputs((7, 3), 5)
    nothing = torch.zeros(7)
    _, *gradients = token_results(
        linear_cross_entropy, hidden, weight, targets, nothing, reduction="none", backend="torch"
    )
    assert not any(gradient.any() for gradient in gradients)
    losses, dhidden, dweight = token_results(
        linear_cross_entropy, hidden[:0], weight, targets[:0], nothing[:0],
        reduction="none", backend="torch",
    )  # fmt: skip
    assert losses.shape == (0,)
    assert dhidden.shape == (0, 3)
    assert not dweight.any()


def test_only_the_gradients_of_tokens_that_are_wanted():
    hidden, weight, targets = inputs((7, 3), 5)
    expected = token_results(
        linear_cross_entropy, hidden, weight, targets, torch.ones(7),
        reduction="none", backend="torch",
    )  # fmt: skip
    h = hidden.clone().requires_grad_()
    linear_cross_entropy(h, weight, targets, reduction="none", backend="torch").sum().backward()
    assert torch.equal(h.grad, expected[1])
    w = weight.clone().requires_grad_()
    linear_cross_entropy(hidden, w, targets, reduction="none", backend="torch").sum().backward()
    assert torch.equal(w.grad, expected[2])


# A remark of PyTorch 2.11.
@pytest.mark.filterwarnings("ignore:.*Profiler clears events")
def test_the_logits_of_the_tokens_losses_never_exist_whole():
    M, V, C = 1024, 3144, 48
    hidden, weight, targets = inputs((M, C), V)

    def run(backend):
        return largest_and_peak(
            lambda: token_results(
                linear_cross_entropy, hidden, weight, targets, torch.ones(M),
                reduction="none", backend=backend,
            )
        )  # fmt: skip

    largest, peak = run("torch")
    whole, plain_peak = run("reference")
    assert whole >= M * V * 4  # the measurement sees them where they do exist
    assert largest <= M * V * 4 / 4
    assert peak <= min(plain_peak / 5, M * V * 4)


# opcheck itself reads the .grad of a tensor that is no leaf.
@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")
@pytest.mark.parametrize("needs", [(True, True), (True, False), (False, True), (False, False)])
def test_registration_of_the_tokens_losses(needs):
    hidden, weight, targets = inputs((7, 3), 5)
    leaves = [x.requires_grad_(n) for x, n in zip((hidden, weight), needs, strict=True)]
    torch.library.opcheck(
        torch.ops.gptfast.token_losses.default, (*leaves, targets, -100, 2.0, False)
    )
    torch.library.opcheck(
        torch.ops.gptfast.token_losses_backward.default,
        (torch.ones(7), hidden.detach(), weight.detach(), targets, -100, 2.0, *needs, False),
    )


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("backend", ["torch", "reference"])
def test_the_tokens_losses_compile_without_a_graph_break(backend, autocast):
    hidden, weight, targets = inputs((7, 3), 5)
    dlosses = torch.arange(7.0)

    def function(*arguments):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            return linear_cross_entropy(*arguments, reduction="none", backend=backend).sin()

    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    for actual, expected in zip(
        token_results(compiled, hidden, weight, targets, dlosses),
        token_results(function, hidden, weight, targets, dlosses),
        strict=True,
    ):
        assert torch.equal(actual, expected)


def test_a_second_derivative_of_the_tokens_losses_is_refused():
    hidden, weight, targets = inputs((7, 3), 5)
    hidden.requires_grad_()
    losses = linear_cross_entropy(hidden, weight, targets, reduction="none", backend="torch")
    (gradient,) = torch.autograd.grad(losses.sum(), hidden, create_graph=True)
    with pytest.raises(UserError, match=r"has no second derivative: .*use_backend"):
        gradient.sum().backward()
