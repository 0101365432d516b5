"""Add an adapter to the weights beside it, for good or for a while.

Legend: N inputs and O outputs of a matrix, R rank, S all ranks of a layer (model/lora.py).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gptfast.errors import UserError
from gptfast.model.base import LanguageModel
from gptfast.model.lora import LoraLinear
from gptfast.model.moe import MixtureOfExperts


@dataclass(frozen=True)
class MergeReport:
    """What merging an adapter changed."""

    n_matrices: int
    dtype: torch.dtype
    """The type of the merged weights."""
    lost: float
    """Norm of the rounding errors, as a share of the norm of all that the adapter adds."""


@torch.no_grad()
def merge(model: LanguageModel) -> MergeReport:
    """Add a model's adapter to its weights, in place: in float32, cast last.

    Raises UserError if there is none, if the weights are in blocks, or for a sum that is not
    finite.
    """
    if model.adapter is None:
        raise UserError("the model has no adapter: nothing to merge")
    added = missed = 0.0
    layers = _adapted(model)
    dtype = torch.float32
    for name, layer in layers:
        if not isinstance(layer.base, nn.Linear):
            raise UserError(f"{name} is in blocks: merging needs float weights")
        weight_ON, delta_ON = layer.base.weight, _delta(layer)
        merged_ON = _sum(weight_ON, delta_ON)
        if not merged_ON.isfinite().all():
            raise UserError(f"the merged weights of {name} are not finite: the adapter is damaged")
        error_ON = merged_ON.double() - weight_ON.double() - delta_ON
        added += float(delta_ON.square().sum())
        missed += float(error_ON.square().sum())
        dtype = weight_ON.dtype
        weight_ON.copy_(merged_ON)
        model.set_submodule(name, layer.base)
    model.adapter = None
    model.requires_grad_(True)
    for module in model.modules():
        if isinstance(module, MixtureOfExperts):
            module.balance_rate = model.config.expert_balance_rate
    return MergeReport(len(layers), dtype, math.sqrt(missed / added) if added else 0.0)


@contextmanager
def merged_for_a_while(model: LanguageModel) -> Iterator[None]:
    """Compute with merged copies of the weights, to rounding the same, until the block ends.

    A step in Rust takes plain layers only (model/rust_step.py). A model in blocks stays as it is.
    """
    layers = _adapted(model) if model.quantized is None else []
    for name, layer in layers:
        model.set_submodule(name, _merged(layer))
    try:
        yield
    finally:
        for name, layer in layers:
            model.set_submodule(name, layer)


def _adapted(model: LanguageModel) -> list[tuple[str, LoraLinear]]:
    return [(n, m) for n, m in model.named_modules() if isinstance(m, LoraLinear)]


@torch.no_grad()
def _merged(layer: LoraLinear) -> nn.Linear:
    base = layer.base
    assert isinstance(base, nn.Linear)
    plain = nn.Linear(base.in_features, base.out_features, device="meta")
    plain.weight = nn.Parameter(_sum(base.weight, _delta(layer)), requires_grad=False)
    plain.bias = base.bias
    return plain.train(layer.training)


def _delta(layer: LoraLinear) -> Tensor:
    """Return what the adapter adds to the layer's matrix, (O, N) in float64."""
    A_SN, B_OS = (matrix.double() for matrix in layer.stacked())
    return layer.scale * (B_OS @ A_SN)


def _sum(weight_ON: Tensor, delta_ON: Tensor) -> Tensor:
    return (weight_ON.float() + delta_ON.float()).to(weight_ON.dtype)
