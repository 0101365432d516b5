"""An operator's short way: the same results and gradients, and not where a call is traced."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from gptfast.errors import UserError
from gptfast.ops.dispatch import no_second_derivative
from gptfast.ops.operator import operator

ways = []


@operator("test_scaled_cube")
def scaled_cube(x: torch.Tensor, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
    """scale x^3, and 2 x."""
    ways.append("function")
    return scale * x**3, 2 * x


@scaled_cube.register_fake
def _(x, scale):
    ways.append("fake")
    return torch.empty_like(x), torch.empty_like(x)


@operator("test_scaled_cube_backward")
def scaled_cube_backward(dout: torch.Tensor, x: torch.Tensor, scale: float) -> torch.Tensor:
    return dout * 3 * scale * x**2


@scaled_cube_backward.register_fake
def _(dout, x, scale):
    return torch.empty_like(dout)


def _setup(ctx, inputs, output):
    ctx.save_for_backward(inputs[0])
    ctx.scale = inputs[1]
    ctx.set_materialize_grads(False)


def _backward(ctx, dout, ddoubled):
    ways.append("no gradient of 2 x" if ddoubled is None else "both gradients")
    dx = scaled_cube_backward(dout, *ctx.saved_tensors, ctx.scale)
    return dx if ddoubled is None else dx + 2 * ddoubled, None


scaled_cube.register_autograd(_backward, setup_context=_setup)
scaled_cube_backward.register_autograd(no_second_derivative("scaled_cube"))


@pytest.fixture(autouse=True)
def _forget():
    ways.clear()


class Seen(TorchDispatchMode):
    """Note the operators that are called."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.append(str(function))
        return function(*args, **(kwargs or {}))


class Mine(torch.Tensor):
    """A tensor with rules of its own, which none of them changes here."""


def test_both_ways_give_the_same():
    x = torch.randn(5, requires_grad=True)
    for function in (scaled_cube, scaled_cube.registered):
        cube, doubled = function(x, 0.5)
        assert torch.equal(cube, 0.5 * x**3)
        (dx,) = torch.autograd.grad(cube.sum(), x, retain_graph=True)
        assert torch.allclose(dx, 1.5 * x**2)
        (dx,) = torch.autograd.grad(cube.sum() + doubled.sum(), x)
        assert torch.allclose(dx, 1.5 * x**2 + 2)
    assert ways == ["function", "no gradient of 2 x", "both gradients"] * 2


def test_an_ordinary_call_goes_the_short_way(monkeypatch):
    x = torch.randn(5, requires_grad=True)
    monkeypatch.setattr(scaled_cube, "registered", None)
    torch.autograd.grad(scaled_cube(x, 2.0)[0].sum(), x)
    scaled_cube(torch.nn.Parameter(x.detach()), 2.0)
    with torch.no_grad():
        assert not scaled_cube(x, 2.0)[0].requires_grad


def test_what_watches_sees_the_operator():
    x = torch.randn(5)
    with Seen() as seen:
        scaled_cube(x, 2.0)
    assert seen.names == ["gptfast.test_scaled_cube.default"]
    with FakeTensorMode() as mode:
        fake = scaled_cube(mode.from_tensor(x), 2.0)[0]
    assert fake.shape == x.shape
    assert ways[-1] == "fake"


def test_a_tensor_with_rules_of_its_own_meets_the_operator(monkeypatch):
    seen = []
    monkeypatch.setattr(scaled_cube, "registered", lambda *inputs: seen.append(inputs))
    scaled_cube(torch.randn(3).as_subclass(Mine), 2.0)
    assert len(seen) == 1


def test_compiles_to_the_operator():
    def loss(x):
        return scaled_cube(x, 2.0)[0].sum()

    x = torch.randn(5, requires_grad=True)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    for function in (loss, compiled):
        (dx,) = torch.autograd.grad(function(x), x)
        assert torch.allclose(dx, 6 * x**2)
    assert "fake" in ways


def test_a_second_derivative_is_refused_the_short_way_too():
    x = torch.randn(5, requires_grad=True)
    (dx,) = torch.autograd.grad(scaled_cube(x, 2.0)[0].sum(), x, create_graph=True)
    with pytest.raises(UserError, match="scaled_cube: this backend has no second derivative"):
        dx.sum().backward()
