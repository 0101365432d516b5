"""SmolLM 3's format: Llama, but with layers that have no positions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

from gptfast.errors import UserError
from gptfast.model.config import ModelConfig
from gptfast.model.formats.base import Stored
from gptfast.model.formats.llama import Llama, refuse_windows


class SmolLM3(Llama):
    """Llama whose every fourth layer goes without positions ("RoPE to NoPE", Yang et al., 2025).

    SmolLM 2 is a Llama.
    """

    architecture = "SmolLM3ForCausalLM"
    defaults: ClassVar[dict[str, Any]] = {
        **Llama.defaults,
        "num_key_value_heads": 4,
        "rope_theta": 2_000_000.0,
        "tie_word_embeddings": True,
    }

    def describe(self, config: ModelConfig) -> dict[str, Any]:
        """Return config.json; see `Format.describe`."""
        layers = [int(config.layer_rotates(layer)) for layer in range(config.n_layer)]
        return super().describe(config) | {"no_rope_layers": layers, "use_sliding_window": False}

    def parse(self, stored: Stored) -> ModelConfig:
        """Return the configuration; see `Format.parse`."""
        refuse_windows(stored)
        config = super().parse(stored)
        layers = stored.get("no_rope_layers")  # 0 where a layer has no positions, despite the name
        if layers is None:
            return replace(config, nope_every=stored.get("no_rope_layer_interval", 4))
        layers = [bool(rotates) for rotates in layers[: config.n_layer]]
        config = replace(config, nope_every=layers.index(False) + 1 if False in layers else None)
        if layers != [config.layer_rotates(layer) for layer in range(config.n_layer)]:
            raise UserError(
                f"its no_rope_layers are {stored['no_rope_layers']}: gptfast can only leave "
                f"positions out of every n-th layer"
            )
        return config
