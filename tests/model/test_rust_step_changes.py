"""What changes after a step in Rust: the next step computes it, or PyTorch does. Never old memory.

The oracle is the step in PyTorch.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from gptfast.errors import UserError
from gptfast.model import GPT, LanguageModel, ModelConfig, rust_step
from gptfast.model.kv_cache import KVCache
from gptfast.model.mlp import MLP
from gptfast.model.norm import RMSNorm
from gptfast.model.transformer import Block
from gptfast.model.watch import Watch

CONFIG = ModelConfig(64, "gpt", 32, 2, 4, 64)


def small(config: ModelConfig = CONFIG) -> GPT:
    torch.manual_seed(0)
    model = GPT(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


@torch.no_grad()
def defined(model: GPT, ids: list[int], cache: KVCache, rows: list[int]) -> torch.Tensor:
    """The step in PyTorch."""
    return LanguageModel._step(model, ids, cache, rows)


class Doubled(MLP):
    def forward(self, x_BTC: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(x_BTC)


def double_forward(model: Any) -> None:
    forward = model.h[0].mlp.forward
    model.h[0].mlp.forward = lambda x_BTC: 2 * forward(x_BTC)


def rank_one(weight: torch.Tensor) -> torch.Tensor:
    """As LoRA (Hu et al., 2022) replaces a weight by a sum."""
    return weight + weight.mean(1, keepdim=True) * weight.mean(0)


class Lowered(nn.Module):
    """As an adapter wraps a layer."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x_BTC: torch.Tensor) -> torch.Tensor:
        return self.layer(x_BTC) - x_BTC.mean()


CHANGES: dict[str, Callable[[Any], object]] = {
    "a method of a module": double_forward,
    "the class of a module": lambda m: setattr(m.h[0].mlp, "__class__", Doubled),
    "one more block": lambda m: m.h.append(Block(CONFIG, 0)),
    "the configuration": lambda m: setattr(m, "config", replace(CONFIG, logit_softcap=0.5)),
    "a transposed weight": lambda m: setattr(
        m.h[0].attn.c_proj.weight, "data", m.h[0].attn.c_proj.weight.data.t()
    ),
    "the memory of a weight": lambda m: setattr(m.wte.weight, "data", m.wte.weight.data * 2),
    "a new parameter": lambda m: setattr(
        m.h[1].mlp.c_fc, "weight", nn.Parameter(rank_one(m.h[1].mlp.c_fc.weight.detach()))
    ),
    "a wrapped layer": lambda m: setattr(m.h[1].attn, "c_proj", Lowered(m.h[1].attn.c_proj)),
    "no bias": lambda m: setattr(m.h[0].mlp.c_fc, "bias", None),
    "eps": lambda m: setattr(m.h[0].ln_1, "eps", 0.5),
    "a window": lambda m: setattr(m.h[0].attn, "window", 1),
    "a norm of another kind": lambda m: setattr(m.h[0], "ln_1", RMSNorm(64, 1e-5)),
    "the largest norm of an embedding": lambda m: setattr(m.wte, "max_norm", 0.1),
    "values in place": lambda m: m.wte.weight.data.mul_(2),
}  # fmt: skip


@pytest.mark.parametrize("is_early", [True, False], ids=["before", "after"])
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_change_of_the_model_is_seen(change: Callable[[Any], object], is_early: bool) -> None:
    model = small()
    cache, twin = model.new_cache(1), model.new_cache(1)
    if not is_early:
        model.step([5], cache, [0])
        defined(model, [5], twin, [0])
    change(model)
    for token in (7, 9):
        expected = defined(model, [token], twin, [0])
        torch.testing.assert_close(model.step([token], cache, [0]), expected, rtol=1e-4, atol=1e-4)


def test_a_change_of_a_class_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small()
    cache, twin = model.new_cache(1), model.new_cache(1)
    assert model.step([5], cache, [0]).allclose(defined(model, [5], twin, [0]), atol=1e-4)
    monkeypatch.setattr(MLP, "forward", lambda self, x: self.c_proj(self.c_fc(x)))
    expected = defined(model, [7], twin, [0])
    torch.testing.assert_close(model.step([7], cache, [0]), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("n", [1, 3])
def test_a_watch_sees_other_memory_and_objects_of_the_same_values(n: int) -> None:
    """Values that change later would be read from the old memory."""
    model = nn.Sequential(nn.Linear(n, n))
    weight: Any = model[0].weight
    values = weight.data
    for other in (values.clone(), values[:0]):
        watch = Watch(model, [])
        assert not watch.sees_a_change(model)
        weight.data = other
        assert watch.sees_a_change(model)
        weight.data = values
        assert not watch.sees_a_change(model)
    model[0].weight = nn.Parameter(values.clone())
    assert watch.sees_a_change(model)


def test_a_model_that_is_no_longer_used_is_freed() -> None:
    model = small()
    model.step([5], model.new_cache(1), [0])
    known = weakref.ref(model)
    del model
    gc.collect()
    assert known() is None


def replaced(cache: KVCache) -> None:
    cache.k = [keys.clone() for keys in cache.k]


def test_replaced_tensors_of_a_cache_are_used() -> None:
    model = small()
    cache, twin = model.new_cache(1), model.new_cache(1)
    for each, step in ((cache, model.step), (twin, lambda *a: defined(model, *a))):
        step([5], each, [0])
        replaced(each)
        each.k[0][:, :, 0] = 1.0
    gc.collect()
    expected = defined(model, [7], twin, [0])
    torch.testing.assert_close(model.step([7], cache, [0]), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_a_cache_of_another_type_is_left_to_pytorch(dtype: torch.dtype) -> None:
    model = small()
    cache = small().to(dtype).new_cache(1)
    why = rust_step.why_not(model, cache)
    assert why is not None
    assert "neither all float32 nor all bfloat16" in why


def test_a_cache_of_another_model_is_left_to_pytorch() -> None:
    narrow = small(replace(CONFIG, n_kv_head=1))
    cache = narrow.new_cache(1)
    narrow.step([5], cache, [0])
    wide = small(replace(CONFIG, n_head=8))
    why = rust_step.why_not(wide, cache)
    assert why is not None
    assert "expected (1, 8)" in why
    assert rust_step.why_not(narrow, cache) is None


def test_memory_that_is_not_aligned_is_left_to_pytorch() -> None:
    model = small()
    raw = bytearray(4 * 64 + 1)
    odd = torch.frombuffer(raw, dtype=torch.float32, offset=1, count=64)
    model.ln_f.weight = nn.Parameter(odd)
    why = rust_step.why_not(model, model.new_cache(1))
    assert why is not None
    assert "ln_f.weight" in why


@pytest.mark.parametrize(
    ("ids", "rows", "message"),
    [
        ([1], [0, 1], "1 ids for 2 rows"),
        ([1, 2], [0, 0], "row 0 is given twice"),
        ([1], [-1], "row -1"),
        ([1], [2], "row 2"),
        ([], [], "no ids"),
        ([64], [0], "a token id is 64"),
    ],
)
@pytest.mark.parametrize("backend", ["auto", "torch"])
def test_mistakes_have_the_same_answer_by_each_backend(
    ids: list[int], rows: list[int], message: str, backend: str
) -> None:
    from gptfast.ops import use_backend

    model = small()
    with use_backend(backend), pytest.raises(UserError, match=message):
        model.step(ids, model.new_cache(2), rows)
