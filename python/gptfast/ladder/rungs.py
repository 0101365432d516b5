"""The rungs: what each one adds, and the settings that train it."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from gptfast.data.documents import TextOptions
from gptfast.train.config import TrainConfig

CONTEXT = 64
"""Context of every CPU-sized rung, in tokens. Each rung has its own steps and learning rates."""


@dataclass(frozen=True)
class Rung:
    """One step of the ladder."""

    name: str
    idea: str
    """What the rung adds to the one below, in a sentence."""
    model: dict[str, Any]
    """Fields of ModelConfig that differ from `_MODEL`."""
    settings: dict[str, Any]
    """Fields of TrainConfig that differ from `_COMMON`."""


_MODEL: dict[str, Any] = {"block_size": CONTEXT}
_COMMON: dict[str, Any] = {
    "tokenizer": "char",
    "batch_size": 32,
    "eval_windows": 128,
    "weight_decay": 0.0,
    "warmup_steps": 20,
    "dtype": "float32",  # bfloat16 gains nothing for models this small
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
    """Return all rungs, the lowest first. full: make the last one the 10M-parameter GPT."""
    return (*_LOWER, _FULL if full else _SCALED)


def rung_config(
    rung: Rung, corpus: str, folder: Path, seed: int, text: TextOptions | None = None
) -> TrainConfig:
    """Return the configuration that trains a rung into folder/NAME.

    text: how to read the corpus.
    """
    model = replace(TrainConfig.model, **_MODEL | rung.model)
    settings = _COMMON | rung.settings
    for field in fields(TextOptions) if text else ():
        settings[field.name] = getattr(text, field.name)
    return TrainConfig(corpus=corpus, out=folder / rung.name, seed=seed, model=model, **settings)
