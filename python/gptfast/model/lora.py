"""Low-rank adapters: a few trained numbers beside frozen weights.

"LoRA: Low-Rank Adaptation of Large Language Models" (Hu et al., 2021): a linear layer W x gets a
second path, scale * B (A x), where A has few rows. W is frozen; A and B are trained. B starts at
zero, so the model starts as its base. The names of an adapter's tensors in a file are PEFT's, which
has one pair (A, B) for each stored matrix: queries, keys and values have one each.

Legend: N inputs and O outputs of a matrix, R rank.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gptfast.errors import UserError
from gptfast.model import formats
from gptfast.model.adapter_folder import (
    WEIGHTS_FILE,
    Base,
    LoraSettings,
    describe_adapter,
)
from gptfast.model.attention import SelfAttention
from gptfast.model.config import ModelConfig
from gptfast.model.dropout import Dropout
from gptfast.model.mlp import MLP
from gptfast.model.moe import MixtureOfExperts
from gptfast.model.quantized import QuantizedLinear

if TYPE_CHECKING:
    from gptfast.model.base import LanguageModel

_PREFIX = "base_model.model."
"""How PEFT's names of tensors begin."""


class Pair(nn.Module):
    """The matrices A (R, N) and B (O, R) beside one stored matrix (O, N)."""

    def __init__(self, n_inputs: int, n_outputs: int, rank: int) -> None:
        super().__init__()
        self.A = nn.Parameter(torch.empty(rank, n_inputs))
        self.B = nn.Parameter(torch.zeros(n_outputs, rank))
        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))  # as nn.Linear starts


class LoraLinear(nn.Module):
    """A frozen linear layer, and a trained path of low rank beside it."""

    def __init__(
        self,
        base: nn.Linear | QuantizedLinear,
        rows: Mapping[str, int],
        adapted: set[str],
        settings: LoraSettings,
    ) -> None:
        """rows: the number of outputs of each piece of the layer. adapted: pieces with a pair."""
        super().__init__()
        self.base = base
        self.rows = dict(rows)
        self.scale = settings.scale
        self.dropout = Dropout(settings.dropout)
        self.pairs = nn.ModuleDict(
            {
                name: Pair(base.in_features, n_rows, settings.rank)
                for name, n_rows in rows.items()
                if name in adapted
            }
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., O) for x (..., N)."""
        A_SN, B_OS = self.stacked()
        low = F.linear(self.dropout(x).to(A_SN.dtype), A_SN) * self.scale
        out: Tensor = self.base(x)
        return out + F.linear(low, B_OS).to(out.dtype)

    def stacked(self) -> tuple[Tensor, Tensor]:
        """Return all A as one matrix (S, N), and all B as one (O, S), zero between the pieces.

        One product then serves all pieces. S is R times the number of pairs.
        """
        pairs = {name: pair for name, pair in self.pairs.items() if isinstance(pair, Pair)}
        A_SN = torch.cat([pairs[name].A for name in self.rows if name in pairs])
        blocks = [
            pairs[name].B if name in pairs else A_SN.new_zeros(n_rows, 0)
            for name, n_rows in self.rows.items()
        ]
        if len(blocks) == 1:
            return A_SN, blocks[0]
        return A_SN, torch.block_diag(*blocks)  # type: ignore[no-untyped-call]


@dataclass(frozen=True)
class _Layer:
    """A linear layer that could get an adapter."""

    name: str
    layer: nn.Linear | QuantizedLinear
    stored: dict[str, str]
    """The name of each piece's module in the model's format, by its last part, such as q_proj."""
    rows: dict[str, int]


class Adapter:
    """What the folder and the checkpoints of a model with LoRA hold: a `Stored`."""

    weights_file = WEIGHTS_FILE

    def __init__(
        self, model: LanguageModel, settings: LoraSettings, base: Base, names: dict[str, str]
    ) -> None:
        """names: PEFT's name of each tensor of the adapter, by its name in the model."""
        self.model, self.settings, self.base, self.names = model, settings, base, names

    def description(
        self, *, bos: int | None, eos: Sequence[int], pad: int | None
    ) -> dict[str, dict[str, Any]]:
        """Return adapter_config.json and adapter_base.json."""
        model = self.model
        own = self.own_state(model.state_dict())  # without heads that no folder holds
        return describe_adapter(
            self.settings,
            self.base,
            task=model.peft_task,
            targets=self._targets(),
            heads=tuple(head for head in model.heads if f"{head}.weight" in own),
            labels=model.labels,
            is_conv1d=formats.format_of(model.config) == "gpt2",
        )

    def _targets(self) -> list[str]:
        """Return the ends of the modules' names, or whole names where the ends mean more."""
        stored = {
            name.removeprefix(_PREFIX).rpartition(".lora_")[0] for name in self.names.values()
        }
        ends = {name.rpartition(".")[2] for name in stored}
        all_names = {name for layer in _linear_layers(self.model) for name in layer.stored.values()}
        same = {name for name in all_names if name.rpartition(".")[2] in ends} == stored
        return sorted(ends if same else stored)

    def own_state(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the pairs, and the heads that are trained whole."""
        own = self.model.own_state(state)
        return {n: t for n, t in own.items() if n in self.names or self._is_head(n)}

    def stored_state(self, own: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors with PEFT's names."""
        heads = self.model.stored_state({n: t for n, t in own.items() if self._is_head(n)})
        pairs = {self.names[n]: t for n, t in own.items() if n in self.names}
        return pairs | {_PREFIX + name: tensor for name, tensor in heads.items()}

    def restored_state(
        self,
        stored: Mapping[str, Tensor],
        own: Mapping[str, Tensor],
        stored_as: ModelConfig | None = None,
    ) -> dict[str, Tensor]:
        """Undo `stored_state`, as `Stored` says."""
        ours = {theirs: name for name, theirs in self.names.items()}
        pairs = {ours[name]: tensor for name, tensor in stored.items() if name in ours}
        rest = {n.removeprefix(_PREFIX): t for n, t in stored.items() if n not in ours}
        heads = {n: t for n, t in own.items() if self._is_head(n)}
        return pairs | self.model.restored_state(rest, heads, stored_as)

    def _is_head(self, name: str) -> bool:
        return name.partition(".")[0] in self.model.heads


def add_lora(
    model: LanguageModel,
    settings: LoraSettings,
    base: Base,
    stored_as: ModelConfig | None = None,
) -> None:
    """Freeze a model, and add an adapter to its layers, in place.

    The matrices A are drawn from PyTorch's global generator. A mixture of experts is frozen with
    its balance: experts are one tensor each for all of them, and get no adapter.

    Args:
        model: a GPT, or one with another head, which stays trainable.
        settings: the adapter's shape.
        base: the folder that the model was loaded from.
        stored_as: the configuration stored in that folder, if it differs from the model's.

    Raises:
        UserError: the model has an adapter already, or a target can't get one.
    """
    if model.adapter is not None:
        raise UserError("the model has an adapter already: merge it first")
    layers = list(_linear_layers(model, stored_as))
    chosen = _chosen(model, layers, settings.targets)
    model.requires_grad_(False)
    for head in model.heads:
        model.get_submodule(head).requires_grad_(True)
    device = next(model.parameters()).device
    names = {}
    for layer in layers:
        adapted = chosen[layer.name]
        if not adapted:
            continue
        new = LoraLinear(layer.layer, layer.rows, adapted, settings).train(model.training)
        model.set_submodule(layer.name, new.to(device))
        for piece in new.pairs:
            for matrix in "AB":
                ours = f"{layer.name}.pairs.{piece}.{matrix}"
                names[ours] = f"{_PREFIX}{layer.stored[piece]}.lora_{matrix}.weight"
    for module in model.modules():
        if isinstance(module, MixtureOfExperts):
            module.balance_rate = 0.0  # balancing would change what the frozen router chooses
    model.adapter = Adapter(model, settings, base, names)


def set_lora_dropout(model: LanguageModel, p: float) -> None:
    """Change the dropout of a model's adapter."""
    assert model.adapter is not None
    model.adapter.settings = replace(model.adapter.settings, dropout=p)
    for module in model.modules():
        if isinstance(module, LoraLinear):
            module.dropout.p = p


def adapted_modules(tensors: Iterable[str]) -> tuple[str, ...]:
    """Return the stored names of the modules with a pair, given PEFT's names of tensors."""
    end = ".lora_A.weight"
    found = (name.removeprefix(_PREFIX) for name in tensors if name.endswith(end))
    return tuple(sorted(name.removesuffix(end) for name in found))


def _linear_layers(model: LanguageModel, stored_as: ModelConfig | None = None) -> Iterator[_Layer]:
    """Yield the linear layers of attention and MLP."""
    for prefix, module in model.named_modules():
        if not isinstance(module, (SelfAttention, MLP)):
            continue
        for child, layer in module.named_children():
            name, base = f"{prefix}.{child}", layer.base if isinstance(layer, LoraLinear) else layer
            if not isinstance(base, (nn.Linear, QuantizedLinear)):
                continue
            pieces = formats.pieces(stored_as or model.config, f"{name}.weight", base.out_features)
            stored = [weight.removesuffix(".weight") for weight in pieces]
            ends = [module.rpartition(".")[2] for module in stored]
            yield _Layer(
                name,
                base,
                dict(zip(ends, stored, strict=True)),
                dict(zip(ends, pieces.values(), strict=True)),
            )


def _chosen(
    model: LanguageModel, layers: list[_Layer], targets: tuple[str, ...]
) -> dict[str, set[str]]:
    """Return the pieces of each layer that get a pair. Raise UserError for an unknown target."""
    if not layers:
        raise UserError(
            f"the model is a {model.config.architecture!r}: only a transformer's layers of "
            f"attention and MLP get an adapter"
        )
    if not targets:
        return {layer.name: set(layer.rows) for layer in layers}
    chosen: dict[str, set[str]] = {layer.name: set() for layer in layers}
    for target in targets:
        end = f".{target}"
        matched = {
            (layer.name, piece)
            for layer in layers
            for piece, stored in layer.stored.items()
            if f".{layer.name}".endswith(end) or f".{stored}".endswith(end)
        }
        if not matched:
            raise UserError(f"lora_targets has {target!r}: {_why_not(model, layers, target)}")
        for name, piece in matched:
            chosen[name].add(piece)
    return chosen


def _why_not(model: LanguageModel, layers: list[_Layer], target: str) -> str:
    """Return why a target can't get an adapter."""
    end = target.rpartition(".")[2]
    if end in ("lm_head", "wte", "embed_tokens"):
        if model.config.tie_embeddings:
            return (
                "the head and the token embedding are one matrix, so an adapter of one would "
                "change the other; leave it out"
            )
        return "the loss reads the head's matrix, not its layer; leave it out"
    if model.config.n_expert and end in ("c_fc", "c_proj", "w1", "w2", "w3", "router", "gate"):
        return "experts and their router get no adapter, only attention does; leave it out"
    ends = sorted({n for layer in layers for n in (layer.name.rpartition(".")[2], *layer.rows)})
    return f"no layer's name ends so; expected some of {', '.join(ends)}"
