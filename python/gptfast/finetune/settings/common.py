"""What all methods of fine-tuning can be told: the model, LoRA, and the settings of every run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gptfast.errors import UserError, check_at_least
from gptfast.train.config import (
    DisplayOptions,
    EvaluationOptions,
    OptimizerOptions,
    RunConfig,
    RunOptions,
)


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """The model to start from."""

    model: Path
    """The model folder to start from. It is not changed."""


@dataclass(frozen=True)
class LoraOptions:
    """Low-rank adapters: train few parameters beside frozen weights (Hu et al., 2021)."""

    lora_rank: int = 0
    """Rank of the adapters. 0 trains all weights; with LoRA, `out` becomes an adapter folder."""
    lora_alpha: float | None = None
    """An adapter's output is scaled by alpha / rank. By default alpha is twice the rank."""
    lora_dropout: float = 0.0
    """Dropout of an adapter's input."""
    lora_targets: tuple[str, ...] = ()
    """Layers that get an adapter, by the end of their names, such as c_attn. By default all linear
    layers but the output head."""
    quantized_base: Literal[8, 4] | None = None
    """Keep the frozen weights in blocks of 8 or 4 bits (QLoRA; Dettmers et al., 2023)."""


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig(RunConfig, LoraOptions, ModelOptions):
    """The settings of every method. Raises UserError for impossible values."""

    optimizer: Literal["muon", "adamw"] = "adamw"
    learning_rate: float = 3e-4
    matrix_learning_rate: float = 2e-3
    max_steps: int = 500
    warmup_steps: int = 20
    weight_decay: float = 0.0
    eval_interval: int = 100

    def __post_init__(self) -> None:
        super().__post_init__()
        check_lora(self, self)
        if self.out.resolve() == self.model.resolve():
            raise UserError(f"out and model are both {self.out}: choose another --out")


def check_lora(lora: LoraOptions, run: RunConfig) -> None:
    """Raise UserError for impossible values, and for those that contradict the run's."""
    check_at_least("lora_rank", lora.lora_rank, 0)
    if lora.lora_alpha is not None and not 0 < lora.lora_alpha < math.inf:
        raise UserError(f"lora_alpha is {lora.lora_alpha}: expected a number above 0")
    if not 0 <= lora.lora_dropout < 1:
        raise UserError(f"lora_dropout is {lora.lora_dropout}: expected 0 <= lora_dropout < 1")
    without_rank = {
        "lora_alpha": lora.lora_alpha,
        "lora_dropout": lora.lora_dropout,
        "lora_targets": " ".join(lora.lora_targets),
    }
    for name, value in without_rank.items():
        if value and not lora.lora_rank:
            raise UserError(
                f"{name} is {value}, but without --lora-rank there is no adapter: give one, "
                f"such as 8"
            )
    if lora.quantized_base is not None and not lora.lora_rank:
        raise UserError(
            f"quantized_base is {lora.quantized_base}, but blocks can't be trained: give "
            f"--lora-rank, too, such as 8"
        )
    if lora.lora_rank and run.freeze:
        raise UserError(
            f"freeze is {' '.join(run.freeze)}, but with LoRA all weights are frozen: leave "
            f"one of them out"
        )
    if lora.lora_rank and run.optimizer == "muon":
        raise UserError(
            "optimizer is 'muon', but LoRA's matrices are trained by AdamW, as their products "
            "matter and not each of them: give --optimizer adamw"
        )


COMMON_GROUPS: dict[str, type] = {
    "model": ModelOptions,
    "LoRA": LoraOptions,
    "run": RunOptions,
    "optimizer": OptimizerOptions,
    "evaluation": EvaluationOptions,
    "display": DisplayOptions,
}
"""The groups of `--help` that all methods share. A method puts its own before them."""
