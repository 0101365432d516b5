"""The options of `gptfast audit scaling`. Needs no PyTorch, so that `--help` is quick."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from gptfast.audit.power_law import MIN_SEEDS, MIN_SIZES
from gptfast.cli.path import PATH
from gptfast.cli.units import count
from gptfast.errors import UserError, check_at_least

HEAD_WIDTH = 16
"""Channels of a head, in every size."""


@dataclass(frozen=True)
class ScalingConfig:
    """Train the same model in several sizes, and show what size buys and costs."""

    out: Path
    """Folder for scaling.json, scaling.png, and a model folder for each run."""
    corpus: Annotated[str, PATH] = "shakespeare"
    """The text to train on, as for `gptfast train`."""
    sizes: tuple[int, ...] = (64, 96, 128)
    """Widths of the models, in channels: multiples of 16."""
    n_layer: int = 4
    """Layers of each model."""
    block_size: int = 128
    """Context in tokens."""
    vocab_size: int = 1024
    """Ids of the BPE tokenizer."""
    tokens: int = 1_000_000
    """Tokens that each model is trained on, without --fit."""
    seeds: tuple[int, ...] = (1,)
    """Seeds of the runs of each size."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of the matrix products, in every run."""
    fit: bool = False
    """Fit L = E + A C^-g to the mean losses, predict the loss of a model with about 4 times the
    compute of the largest one, and train that model to see. Needs 4 sizes and 3 seeds or more."""
    tokens_per_parameter: float = 20.0
    """With --fit: tokens per parameter of the matrices and the output, for every size."""

    def __post_init__(self) -> None:
        for size in self.sizes:
            if size < HEAD_WIDTH or size % HEAD_WIDTH:
                raise UserError(f"size {size}: expected multiples of {HEAD_WIDTH}, such as 64 96")
        for name, values in (("sizes", self.sizes), ("seeds", self.seeds)):
            if len(set(values)) < max(len(values), 1):
                raise UserError(f"{name} are {values}: expected one or more, each once")
        for name in ("n_layer", "block_size", "tokens"):
            check_at_least(name, getattr(self, name), 1)
        if self.fit:
            for name, given, least in (
                ("size", len(self.sizes), MIN_SIZES), ("seed", len(self.seeds), MIN_SEEDS)
            ):  # fmt: skip
                if given < least:
                    found = count(given, name)
                    raise UserError(f"{found} given with --fit: expected {least} or more")
            if self.tokens_per_parameter <= 0:
                given_ratio = self.tokens_per_parameter
                raise UserError(f"tokens_per_parameter is {given_ratio}: expected more than 0")
