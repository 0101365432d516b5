"""How `gptfast audit repetition` samples. Needs no PyTorch, so that `--help` is quick."""

from __future__ import annotations

from dataclasses import dataclass

from gptfast.errors import check_at_least
from gptfast.sample.config import SamplingConfig

SETTINGS = {
    "greedy": SamplingConfig(temperature=0),
    "T 0.8": SamplingConfig(temperature=0.8),
    "T 0.8, top-p 0.9": SamplingConfig(temperature=0.8, top_p=0.9),
    "T 1": SamplingConfig(temperature=1),
}
"""The settings whose samples are measured, by their names in tables. T is the temperature."""


@dataclass(frozen=True)
class RepetitionPlan:
    """How many samples to write with each setting, and of what length."""

    samples: int = 8
    """Samples in each set."""
    sets: int = 5
    """Sets of samples. Each uses different seeds, because a single set shows only luck. Greedy
    samples need one."""
    prompt_tokens: int = 32
    """Tokens of the val text before each sample."""
    sample_tokens: int = 200
    """Tokens of each sample."""
    seed: int = 1337
    """The seed of the first sample. Each further sample has the next one."""

    def __post_init__(self) -> None:
        smallest = {"samples": 2, "sets": 2, "prompt_tokens": 1, "sample_tokens": 5, "seed": 0}
        for name, least in smallest.items():
            check_at_least(name, getattr(self, name), least)
