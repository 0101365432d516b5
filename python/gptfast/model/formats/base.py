"""The interface of a format: the content of config.json and the names of the tensors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from gptfast.errors import UserError, as_float
from gptfast.model.config import ModelConfig

Stored = Mapping[str, Any]


class Format(ABC):
    """One of Hugging Face's formats."""

    architecture: str
    """The class in transformers that reads the format."""

    @abstractmethod
    def describe(self, config: ModelConfig) -> dict[str, Any]:
        """Return config.json for a configuration, without what the format can't express."""

    @abstractmethod
    def parse(self, stored: Stored) -> ModelConfig:
        """Return the configuration of a config.json.

        Raises UserError for settings that gptfast can't compute. Raises KeyError, TypeError or
        another exception if `stored` is not a valid config.json of this format.
        """

    @abstractmethod
    def names(self, name: str, config: ModelConfig) -> list[str]:
        """Return the stored names of a parameter, one for each part of its rows, in order."""

    def is_transposed(self, name: str) -> bool:
        """Return whether the parameter is stored as (in, out), the transpose of nn.Linear's."""
        return False

    def canonical(self, stored: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return the stored tensors with the names from `names`, for files with other names."""
        return stored


def spelled_shortest(config: ModelConfig) -> ModelConfig:
    """Return an equal configuration, in which each value that is the default is left to it."""
    if config.n_kv_head == config.n_head:
        config = replace(config, n_kv_head=None)
    if config.head_dim is not None and config.head_dim * config.n_head == config.n_embd:
        config = replace(config, head_dim=None)
    if config.bias and config.qkv_bias:
        config = replace(config, qkv_bias=False)
    if config.rope_original_context == round(config.block_size / config.rope_factor):
        config = replace(config, rope_original_context=None)
    if config.hidden_width == replace(config, n_hidden=None).hidden_width:
        config = replace(config, n_hidden=None)
    return config


def positive(stored: Stored, key: str) -> Any:
    """Return the number that config.json has under `key`. Raise UserError unless it is above 0."""
    if as_float(key, stored[key]) <= 0:
        raise UserError(f"{key} is {stored[key]}: expected more than 0")
    return stored[key]


def refuse_others(stored: Stored, known: dict[str, tuple[Any, ...]]) -> None:
    """Raise UserError if a value in config.json is not among its `known` values.

    A missing key stands for the first known value.
    """
    for key, ours in known.items():
        if stored.get(key, ours[0]) not in ours:
            values = " and ".join(map(repr, ours))
            raise UserError(f"it has {key} {stored[key]!r}: gptfast has only {values}")
