"""A model under torch.func, torch.jit.trace and torch.export: the results are those of its forward.

Each test's comment names the report, of another project, that it follows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest
import torch
from small_models import EVERY_MODEL, GPT2, LLAMA, MODELS, C, T, shaken, some_ids
from torch.func import functional_call, grad, hessian, jacrev, jvp, vmap
from torch.nn import functional as F

from gptfast.model import GPT, ModelConfig

# ---- torch.func ----------------------------------------------------------------------------------


def nanogpt_loss(p: dict[str, torch.Tensor], x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """GPT-2's loss in plain PyTorch, as nanoGPT computes it, for one text."""

    def norm(h: torch.Tensor, name: str) -> torch.Tensor:
        return F.layer_norm(h, (C,), p[f"{name}.weight"], p[f"{name}.bias"])

    def linear(h: torch.Tensor, name: str) -> torch.Tensor:
        return F.linear(h, p[f"{name}.weight"], p[f"{name}.bias"])

    n = len(x)
    h = p["wte.weight"][x] + p["wpe.weight"][:n]
    for i in range(GPT2.n_layer):
        qkv = linear(norm(h, f"h.{i}.ln_1"), f"h.{i}.attn.c_attn")
        q, k, v = (part.view(n, 2, C // 2).transpose(0, 1) for part in qkv.split(C, dim=-1))
        weights = (q @ k.mT / (C // 2) ** 0.5).masked_fill(
            torch.ones(n, n).triu(1).bool(), float("-inf")
        )
        mixed = (weights.softmax(-1) @ v).transpose(0, 1).reshape(n, C)
        h = h + linear(mixed, f"h.{i}.attn.c_proj")
        wide = F.gelu(linear(norm(h, f"h.{i}.ln_2"), f"h.{i}.mlp.c_fc"), approximate="tanh")
        h = h + linear(wide, f"h.{i}.mlp.c_proj")
    return F.cross_entropy(norm(h, "ln_f") @ p["wte.weight"].T, y)


TRANSFORMS: dict[str, Callable[[Callable[..., Any]], Callable[..., Any]]] = {
    "grad": lambda f: lambda p, x, y: grad(f)(p, x[0], y[0]),
    "vmap of grad": lambda f: vmap(grad(f), in_dims=(None, 0, 0)),
    "vmap": lambda f: vmap(f, in_dims=(None, 0, 0)),
    "jacrev": lambda f: jacrev(vmap(f, in_dims=(None, 0, 0))),
    "jvp": lambda f: lambda p, x, y: jvp(lambda p: f(p, x[0], y[0]), (p,), (p,)),
    "jvp of grad": lambda f: lambda p, x, y: jvp(lambda p: grad(f)(p, x[0], y[0]), (p,), (p,)),
    "hessian": lambda f: (
        lambda p, x, y: hessian(lambda bias: f({**p, "ln_f.bias": bias}, x[0], y[0]))(
            p["ln_f.bias"]
        )
    ),
}


# flash-attention#2071. PyTorch's own forward mode AD uses torch.jit.
@pytest.mark.filterwarnings("ignore:`torch.jit")
@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)
def test_functional_transforms_are_those_of_nanogpts_model(
    transform: Callable[..., Any],
) -> None:
    model = shaken(GPT2)
    model.activation_checkpointing = True

    def loss(p: dict[str, torch.Tensor], x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return functional_call(model, p, (x[None], y[None]))

    parameters = {name: p.detach() for name, p in model.named_parameters()}
    inputs = (parameters, some_ids(3), some_ids(3).flip(0))
    expected = transform(nanogpt_loss)(*inputs)
    torch.testing.assert_close(transform(loss)(*inputs), expected, atol=1e-4, rtol=1e-4)


# A remark of PyTorch on ops that vmap runs one by one.
@pytest.mark.filterwarnings("ignore:There is a performance drop")
@EVERY_MODEL
def test_gradients_by_functional_transforms_are_autograds(config: ModelConfig) -> None:
    model, ids = shaken(config).train(), some_ids()
    names = [name for name, _ in model.named_parameters()]
    expected = [torch.autograd.grad(model(x[None], x[None]), model.parameters()) for x in ids]
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    actual = vmap(
        grad(lambda p, x: functional_call(model, p, (x[None], x[None]))), in_dims=(None, 0)
    )(parameters, ids)
    for name, *texts in zip(names, *expected, strict=True):
        torch.testing.assert_close(actual[name], torch.stack(texts), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("randomness", ["different", "same"])
def test_dropout_follows_the_randomness_of_vmap(randomness: str) -> None:
    model = GPT(replace(GPT2, dropout=0.5))
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    ids = some_ids(1).expand(2, -1)
    first, second = vmap(
        grad(lambda p, x: functional_call(model, p, (x[None], x[None]))),
        in_dims=(None, 0),
        randomness=randomness,
    )(parameters, ids)["h.1.mlp.c_fc.weight"]
    assert torch.equal(first, second) == (randomness == "same")


# ---- tracing -------------------------------------------------------------------------------------


# PyTorch's remarks: torch.jit is old, and the checks of shapes are not part of the trace.
TRACING = pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:`torch.jit")


@TRACING
@pytest.mark.parametrize("name", ["llama", "speedrun", "mixtral", "average"])
def test_a_trace_gives_the_models_results_for_other_shapes_too(name: str) -> None:
    """Texts shorter and longer than the traced one, and than a sliding window of 5."""
    model = shaken(MODELS[name])
    traced = torch.jit.trace(model, some_ids(2, 4))
    for ids in (some_ids(3, 11), some_ids(1, 3)):
        torch.testing.assert_close(traced(ids), model(ids))


@TRACING
@pytest.mark.parametrize(
    ("name", "train", "with_grad"),
    [("gpt2", False, True), ("gpt2", True, False), ("mixtral", True, True)],
)
def test_a_traced_loss_has_the_models_gradients(name: str, train: bool, with_grad: bool) -> None:
    """PyTorch checks a trace under no_grad, so both traces have to be one."""
    model, ids = shaken(MODELS[name]).train(train), some_ids(3, 7)
    with torch.set_grad_enabled(with_grad):
        traced = torch.jit.trace(model, (some_ids(), some_ids()))
    actual, expected = traced(ids, ids), model(ids, ids)
    torch.testing.assert_close(actual, expected)
    parameters = list(model.parameters())
    torch.testing.assert_close(
        torch.autograd.grad(actual, parameters), torch.autograd.grad(expected, parameters)
    )


@TRACING
@pytest.mark.parametrize("name", ["mixtral", "speedrun"])
def test_a_model_with_dropout_can_be_traced(name: str) -> None:
    model = shaken(replace(MODELS[name], dropout=0.4, ngram_dropout=0.4)).train()
    traced = torch.jit.trace(model, (some_ids(), some_ids()), check_trace=False)  # it is random
    ids = some_ids(3, 7)
    torch.manual_seed(1)
    losses = torch.stack([traced(ids, ids) for _ in range(30)])
    expected = torch.stack([model(ids, ids) for _ in range(30)])
    assert losses.std() > 0
    assert abs(losses.mean() - expected.mean()) < 4 * expected.std() / 15**0.5
    losses.sum().backward()


def test_an_exported_model_gives_the_models_results() -> None:
    model, ids = shaken(LLAMA), some_ids()
    torch.testing.assert_close(torch.export.export(model, (ids,)).module()(ids), model(ids))


@pytest.mark.parametrize("name", ["gpt2", "llama", "speedrun", "average"])
def test_an_exported_model_saved_and_loaded_takes_other_shapes(name: str, tmp_path: Path) -> None:
    """As docs/inference.md says: an example batch of 1 would be taken for a constant."""
    model = shaken(MODELS[name])
    batch, time = torch.export.Dim("batch", min=2), torch.export.Dim("time", min=2, max=T)
    exported = torch.export.export(model, (some_ids(3, 5),), dynamic_shapes=({0: batch, 1: time},))
    for node in exported.graph.nodes:
        node.meta.pop("stack_trace", None)
    torch.export.save(exported, tmp_path / "model.pt2")
    with ZipFile(tmp_path / "model.pt2") as file:  # no path of this machine
        assert not any(b"/python/gptfast/" in file.read(name) for name in file.namelist())
    again = torch.export.load(tmp_path / "model.pt2").module()
    for ids in (some_ids(2, T), some_ids(7, 2), some_ids(4, 11)):
        torch.testing.assert_close(again(ids), model(ids))


def test_a_compiled_model_computes_no_table_again() -> None:
    graphs: list[torch.fx.GraphModule] = []

    def keep(graph: torch.fx.GraphModule, _: object) -> Callable[..., Any]:
        graphs.append(graph)
        return graph.forward

    model, ids = shaken(LLAMA), some_ids()
    torch.testing.assert_close(torch.compile(model, backend=keep, fullgraph=True)(ids), model(ids))
    called = [str(node.target) for node in graphs[0].graph.nodes]
    assert sum("rotation_cos" in name for name in called) == 1
    assert not {"cos", "sin", "arange"} & set(called)
