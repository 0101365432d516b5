"""Qwen 2's and Qwen 3's formats, which vary Llama's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

from gptfast.model.config import ModelConfig
from gptfast.model.formats.base import Stored, refuse_others
from gptfast.model.formats.llama import Llama, refuse_windows


class Qwen2(Llama):
    """Llama with biases for queries, keys and values alone ("Qwen2", Yang et al., 2024).

    Qwen 2.5 has the same format.
    """

    architecture = "Qwen2ForCausalLM"
    defaults: ClassVar[dict[str, Any]] = {**Llama.defaults, "num_key_value_heads": 32}

    def describe(self, config: ModelConfig) -> dict[str, Any]:
        """Return config.json; see `Format.describe`."""
        llama = super().describe(config)
        del llama["attention_bias"], llama["mlp_bias"]
        return llama | {"use_sliding_window": False}

    def parse(self, stored: Stored) -> ModelConfig:
        """Return the configuration; see `Format.parse`. The published models use no window."""
        refuse_windows(stored)
        return replace(super().parse(stored), qkv_bias=True)


class Qwen3(Llama):
    """Llama with normed queries and keys, and wider heads ("Qwen3", Yang et al., 2025)."""

    architecture = "Qwen3ForCausalLM"
    defaults: ClassVar[dict[str, Any]] = {
        **Llama.defaults,
        "head_dim": 128,
        "num_key_value_heads": 32,
    }

    def describe(self, config: ModelConfig) -> dict[str, Any]:
        """Return config.json; see `Format.describe`."""
        llama = super().describe(config)
        del llama["mlp_bias"]
        return llama | {"use_sliding_window": False}

    def parse(self, stored: Stored) -> ModelConfig:
        """Return the configuration; see `Format.parse`. The published models have no biases."""
        refuse_windows(stored)
        refuse_others(stored, {"attention_bias": (False,)})
        return replace(super().parse(stored), qk_norm=True)
