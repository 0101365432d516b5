"""GPT-2's format."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from gptfast.model.config import Activation, ModelConfig
from gptfast.model.formats.base import Format, Stored, refuse_others, spelled_shortest

ACTIVATIONS: dict[str, Activation] = {
    "gelu_new": "gelu",
    "gelu_pytorch_tanh": "gelu",
    "gelu": "gelu_exact",
}
"""gptfast's activations, keyed by their names in transformers."""
_HEADS = ("lm_head.", "score.")
"""Beginnings of the names of what reads the last vectors, which have no prefix."""


class GPT2(Format):
    """GPT-2's format: gptfast's parameter names with a prefix, and transposed matrices."""

    architecture = "GPT2LMHeadModel"

    def describe(self, config: ModelConfig) -> dict[str, Any]:
        """Return config.json; see `Format.describe`."""
        return {
            "vocab_size": config.vocab_size,
            "n_positions": config.block_size,
            "n_ctx": config.block_size,  # the same, for older readers such as llama.cpp's converter
            "n_embd": config.n_embd,
            "n_layer": config.n_layer,
            "n_head": config.n_head,
            "n_inner": config.n_hidden,
            "activation_function": "gelu" if config.activation == "gelu_exact" else "gelu_new",
            "layer_norm_epsilon": config.norm_eps,
            "embd_pdrop": config.dropout,
            "attn_pdrop": config.dropout,
            "resid_pdrop": config.dropout,
            "tie_word_embeddings": config.tie_embeddings,
        }

    def parse(self, stored: Stored) -> ModelConfig:
        """Return the configuration; see `Format.parse`."""
        known = {
            "activation_function": tuple(ACTIVATIONS),
            "scale_attn_weights": (True,),
            "scale_attn_by_inverse_layer_idx": (False,),
            "add_cross_attention": (False,),
        }
        refuse_others(stored, known)
        config = ModelConfig(
            vocab_size=stored["vocab_size"],
            block_size=stored["n_positions"],
            n_layer=stored["n_layer"],
            n_head=stored["n_head"],
            n_embd=stored["n_embd"],
            n_hidden=stored.get("n_inner"),
            dropout=stored.get("resid_pdrop", 0.1),
            norm_eps=stored.get("layer_norm_epsilon", 1e-5),
            activation=ACTIVATIONS[stored.get("activation_function", "gelu_new")],
            tie_embeddings=stored.get("tie_word_embeddings", True),
        )
        return spelled_shortest(config)

    def names(self, name: str, config: ModelConfig) -> list[str]:
        """Return the one stored name of a parameter."""
        return [name if name.startswith(_HEADS) else f"transformer.{name}"]

    def is_transposed(self, name: str) -> bool:
        """Return whether the parameter is one of GPT-2's "Conv1D" matrices."""
        return re.search(r"c_(attn|proj|fc)\.weight$", name) is not None

    def canonical(self, stored: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Add the prefix where it is missing, and drop the causal masks of old files."""
        return {
            name if name.startswith(("transformer.", *_HEADS)) else f"transformer.{name}": tensor
            for name, tensor in stored.items()
            if not name.endswith((".attn.bias", ".attn.masked_bias"))
        }
