"""Llama's format, and Mistral's format, which adds a sliding window."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from gptfast.model.config import ModelConfig
from gptfast.model.formats.base import Format, Stored, positive, refuse_others, spelled_shortest

NAMES = {
    "wte": ["model.embed_tokens"],
    "ln_f": ["model.norm"],
    "lm_head": ["lm_head"],
    "score": ["score"],
    "ln_1": ["input_layernorm"],
    "ln_2": ["post_attention_layernorm"],
    "attn.c_attn": ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
    "attn.c_proj": ["self_attn.o_proj"],
    "mlp.c_fc": ["mlp.gate_proj", "mlp.up_proj"],
    "mlp.c_proj": ["mlp.down_proj"],
    "mlp.router": ["block_sparse_moe.gate"],
}
"""Stored module names, keyed by gptfast's names. Names within a layer lack the layer's prefix."""


class Llama(Format):
    """Llama's format: RMS norms, rotary positions, SwiGLU, separate queries, keys and values."""

    architecture = "LlamaForCausalLM"

    def describe(self, config: ModelConfig) -> dict[str, Any]:
        """Return config.json; see `Format.describe`."""
        rope: dict[str, Any] = {"rope_type": "default", "rope_theta": config.rope_theta}
        older: dict[str, Any] = {"rope_theta": config.rope_theta}  # before transformers 5
        if config.rope_scaling == "yarn":
            older["rope_scaling"] = {
                "rope_type": "yarn",
                "factor": config.rope_factor,
                "original_max_position_embeddings": round(config.block_size / config.rope_factor),
            }
            rope |= older["rope_scaling"]
        return older | {
            "vocab_size": config.vocab_size,
            "max_position_embeddings": config.block_size,
            "hidden_size": config.n_embd,
            "intermediate_size": config.hidden_width,
            "num_hidden_layers": config.n_layer,
            "num_attention_heads": config.n_head,
            "num_key_value_heads": config.key_value_heads,
            "head_dim": config.head_width,
            "hidden_act": "silu",
            "rms_norm_eps": config.norm_eps,
            "rope_parameters": rope,
            "attention_bias": config.bias,
            "mlp_bias": config.bias,
            "attention_dropout": config.dropout,
            "tie_word_embeddings": config.tie_embeddings,
        }

    def parse(self, stored: Stored) -> ModelConfig:
        """Return the configuration; see `Format.parse`."""
        heads, width = positive(stored, "num_attention_heads"), positive(stored, "hidden_size")
        bias = stored.get("attention_bias", False)
        known = {
            "hidden_act": ("silu",),
            "head_dim": (None, width // heads),
            "mlp_bias": (bias,),
        }
        refuse_others(stored, known)
        rope = _rope(stored)
        is_yarn = rope["rope_type"] == "yarn"
        config = ModelConfig(
            vocab_size=stored["vocab_size"],
            block_size=stored["max_position_embeddings"],
            n_layer=stored["num_hidden_layers"],
            n_head=heads,
            n_embd=width,
            dropout=stored.get("attention_dropout", 0.0),
            n_kv_head=stored.get("num_key_value_heads"),
            norm="rmsnorm",
            norm_eps=stored.get("rms_norm_eps", 1e-6),
            bias=bias,
            positions="rotary",
            rope_theta=rope["rope_theta"],
            rope_scaling="yarn" if is_yarn else "none",
            rope_factor=rope["factor"] if is_yarn else 1.0,
            activation="swiglu",
            n_hidden=stored["intermediate_size"],
            tie_embeddings=stored.get("tie_word_embeddings", False),
        )
        return spelled_shortest(config)

    def names(self, name: str, config: ModelConfig) -> list[str]:
        """Return the stored names of a parameter; see `Format.names`."""
        module, _, kind = name.rpartition(".")
        prefix = ""
        if in_layer := re.fullmatch(r"h\.(\d+)\.(.+)", module):
            prefix, module = f"model.layers.{in_layer[1]}.", in_layer[2]
        return [f"{prefix}{stored}.{kind}" for stored in NAMES[module]]


class Mistral(Llama):
    """Mistral's format: Llama without biases and with a sliding window."""

    architecture = "MistralForCausalLM"

    def describe(self, config: ModelConfig) -> dict[str, Any]:
        """Return config.json; see `Format.describe`."""
        llama = super().describe(config)
        del llama["attention_bias"], llama["mlp_bias"]
        return llama | {"sliding_window": config.sliding_window}

    def parse(self, stored: Stored) -> ModelConfig:
        """Return the configuration; see `Format.parse`."""
        return replace(super().parse(stored), sliding_window=stored.get("sliding_window", 4096))


def _rope(stored: Stored) -> dict[str, Any]:
    """Return the settings of the rotary positions. Raises UserError for unsupported settings."""
    # transformers before 5 stored these two separately.
    rope = stored.get("rope_parameters") or {
        "rope_theta": stored.get("rope_theta", 10_000.0),
        **(stored.get("rope_scaling") or {}),
    }
    # "type" is the key's old name.
    scaling = rope.get("rope_type", rope.get("type", "default"))
    block_size = positive(stored, "max_position_embeddings")
    rope = {"original_max_position_embeddings": block_size} | rope | {"rope_type": scaling}
    known = {"rope_type": ("default", "yarn"), "attention_factor": (None,), "truncate": (True,),
             "beta_fast": (None, 32), "beta_slow": (None, 1), "mscale": (None,)}  # fmt: skip
    if scaling == "yarn":
        known["original_max_position_embeddings"] = (round(block_size / positive(rope, "factor")),)
    refuse_others(rope, known)
    return rope
