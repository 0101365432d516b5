"""What a format is: how config.json describes a GPT, and what its tensors are called."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from gptfast.errors import UserError
from gptfast.model.config import ModelConfig

Stored = Mapping[str, Any]


class Format(ABC):
    """One of Hugging Face's formats."""

    architecture: str
    """The class of transformers that reads it."""

    @abstractmethod
    def describe(self, config: ModelConfig) -> dict[str, Any]:
        """Return config.json for a configuration; what it can't express is left out."""

    @abstractmethod
    def parse(self, stored: Stored) -> ModelConfig:
        """Return the configuration of a config.json.

        Raises UserError for what a GPT can't compute, and KeyError, TypeError or another error for
        what is no config.json of this format.
        """

    @abstractmethod
    def names(self, name: str, config: ModelConfig) -> list[str]:
        """Return the stored names of a parameter's rows: of all of them, or of parts in order."""

    def is_transposed(self, name: str) -> bool:
        """Whether the parameter is stored as (in, out), the transpose of nn.Linear's."""
        return False

    def canonical(self, stored: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return stored tensors under the names that `names` gives, where a file has others."""
        return stored


def spelled_shortest(config: ModelConfig) -> ModelConfig:
    """Return the same model with None where a field says what None would mean."""
    if config.n_kv_head == config.n_head:
        config = replace(config, n_kv_head=None)
    if config.hidden_width == replace(config, n_hidden=None).hidden_width:
        config = replace(config, n_hidden=None)
    return config


def refuse_others(stored: Stored, known: dict[str, tuple[Any, ...]]) -> None:
    """Raise UserError where config.json has another value than those that a GPT can compute.

    A key that is missing stands for the first of them.
    """
    for key, ours in known.items():
        if stored.get(key, ours[0]) not in ours:
            values = " and ".join(map(repr, ours))
            raise UserError(f"it has {key} {stored[key]!r}: gptfast has only {values}")
