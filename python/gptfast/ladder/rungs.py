"""The rungs: what each one adds, and the training run that shows what it is worth."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gptfast.train.config import TrainConfig

CONTEXT = 64
"""Tokens that every CPU-sized rung may look at. Steps and learning rates are each rung's own."""


@dataclass(frozen=True)
class Rung:
    """One step of the ladder."""

    name: str
    idea: str
    """What it adds to the rung below, in a sentence."""
    model: dict[str, Any]
    """Fields of ModelConfig in which it differs from `_MODEL`."""
    settings: dict[str, Any]
    """Fields of TrainConfig in which it differs from `_COMMON`."""


_MODEL: dict[str, Any] = {"block_size": CONTEXT}
_COMMON: dict[str, Any] = {
    "tokenizer": "char",
    "batch_size": 32,
    "eval_windows": 128,
    "weight_decay": 0.0,
    "warmup_steps": 20,
    "dtype": "float32",  # these models are too small to gain by bfloat16
}

_SCALED = Rung(
    "gpt",
    "the scaled GPT: the same blocks, wider, deeper and trained for longer",
    {"n_layer": 4, "n_head": 4, "n_embd": 128},
    {"max_steps": 1300, "learning_rate": 6e-3, "matrix_learning_rate": 0.03, "weight_decay": 0.1,
     "warmup_steps": 100, "eval_interval": 130},
)  # fmt: skip

_FULL = Rung(
    "gpt",
    "the scaled GPT: 10 million parameters, for a GPU",
    {"block_size": 256, "n_layer": 6, "n_head": 6, "n_embd": 384, "dropout": 0.2},
    {"max_steps": 5000, "batch_size": 64, "learning_rate": 1e-3, "weight_decay": 0.1,
     "warmup_steps": 100, "eval_interval": 250, "dtype": "auto"},
)  # fmt: skip

_LOWER = (
    Rung(
        "bigram",
        "a table: the next character depends on this one alone",
        {"architecture": "bigram", "n_layer": 1},
        {"max_steps": 300, "learning_rate": 0.1, "eval_interval": 50},
    ),
    Rung(
        "average",
        "a context window: the mean of all characters so far, each with the same weight",
        {"architecture": "average", "n_layer": 1, "n_head": 1, "n_embd": 64},
        {"max_steps": 500, "learning_rate": 2e-2, "eval_interval": 50},
    ),
    Rung(
        "head",
        "self-attention: one head computes the weights from what the characters are",
        {"architecture": "head", "n_layer": 1, "n_head": 1, "n_embd": 64},
        {"max_steps": 2000, "learning_rate": 6e-3, "eval_interval": 200},
    ),
    Rung(
        "multihead",
        "four heads, a feed-forward layer after them, and positions",
        {"architecture": "multihead", "n_layer": 1, "n_head": 4, "n_embd": 64},
        {"max_steps": 1000, "learning_rate": 5e-3, "eval_interval": 100},
    ),
    Rung(
        "residual",
        "residual connections with pre-norm, which let two such blocks be stacked",
        {"n_layer": 2, "n_head": 4, "n_embd": 64},
        {"max_steps": 900, "learning_rate": 3e-3, "eval_interval": 90},
    ),
)  # fmt: skip


def rungs(full: bool) -> tuple[Rung, ...]:
    """All rungs, the lowest first; `full` takes the 10M-parameter configuration as the last."""
    return (*_LOWER, _FULL if full else _SCALED)


def rung_config(rung: Rung, corpus: str, folder: Path, seed: int) -> TrainConfig:
    """The training run of a rung into folder/NAME."""
    model = replace(TrainConfig.model, **_MODEL | rung.model)
    settings = _COMMON | rung.settings
    return TrainConfig(corpus=corpus, out=folder / rung.name, seed=seed, model=model, **settings)
