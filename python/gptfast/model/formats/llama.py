"""Llama's format, which those of Mistral, Qwen (qwen.py) and SmolLM 3 (smollm3.py) vary."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

from torch import Tensor

from gptfast.errors import UserError
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
    "attn.q_norm": ["self_attn.q_norm"],
    "attn.k_norm": ["self_attn.k_norm"],
    "attn.c_proj": ["self_attn.o_proj"],
    "mlp.c_fc": ["mlp.gate_proj", "mlp.up_proj"],
    "mlp.c_proj": ["mlp.down_proj"],
    "mlp.router": ["block_sparse_moe.gate"],
}
"""Stored module names, keyed by gptfast's names. Names within a layer lack the layer's prefix."""


class Llama(Format):
    """Llama's format: RMS norms, rotary positions, SwiGLU, separate queries, keys and values."""

    architecture = "LlamaForCausalLM"
    defaults: ClassVar[dict[str, Any]] = {
        "attention_bias": False,
        "attention_dropout": 0.0,
        "head_dim": None,
        "mlp_bias": False,
        "num_key_value_heads": None,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10_000.0,
        "tie_word_embeddings": False,
    }
    """What transformers takes for a key that config.json lacks."""

    def describe(self, config: ModelConfig) -> dict[str, Any]:
        """Return config.json; see `Format.describe`."""
        rope: dict[str, Any] = {"rope_type": "default", "rope_theta": config.rope_theta}
        older: dict[str, Any] = {"rope_theta": config.rope_theta}  # before transformers 5
        if config.rope_scaling in ("yarn", "llama3"):
            older["rope_scaling"] = {
                "rope_type": config.rope_scaling,
                "factor": config.rope_factor,
                "original_max_position_embeddings": config.original_context,
                **(_LLAMA3 if config.rope_scaling == "llama3" else {}),
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
        stored = {**self.defaults, **stored}
        heads, width = positive(stored, "num_attention_heads"), positive(stored, "hidden_size")
        bias = stored["attention_bias"]
        refuse_others(stored, {"hidden_act": ("silu",)})
        if stored["mlp_bias"] != bias:
            raise UserError(
                f"it has attention_bias {bias} and mlp_bias {stored['mlp_bias']}: gptfast gives "
                f"biases to attention and MLP, or to neither"
            )
        config = ModelConfig(
            vocab_size=stored["vocab_size"],
            block_size=stored["max_position_embeddings"],
            n_layer=stored["num_hidden_layers"],
            n_head=heads,
            n_embd=width,
            dropout=stored["attention_dropout"],
            n_kv_head=stored["num_key_value_heads"],
            head_dim=stored["head_dim"],
            norm="rmsnorm",
            norm_eps=stored["rms_norm_eps"],
            bias=bias,
            positions="rotary",
            **_rope(stored),
            activation="swiglu",
            n_hidden=stored["intermediate_size"],
            tie_embeddings=stored["tie_word_embeddings"],
        )
        return spelled_shortest(config)

    def names(self, name: str, config: ModelConfig) -> list[str]:
        """Return the stored names of a parameter; see `Format.names`."""
        module, _, kind = name.rpartition(".")
        prefix = ""
        if in_layer := re.fullmatch(r"h\.(\d+)\.(.+)", module):
            prefix, module = f"model.layers.{in_layer[1]}.", in_layer[2]
        return [f"{prefix}{stored}.{kind}" for stored in NAMES[module]]

    def canonical(self, stored: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Drop the rotary frequencies of old files; see `Format.canonical`."""
        return {n: tensor for n, tensor in stored.items() if not n.endswith("rotary_emb.inv_freq")}


class Mistral(Llama):
    """Mistral's format: Llama without biases and with a sliding window."""

    architecture = "MistralForCausalLM"
    defaults: ClassVar[dict[str, Any]] = {
        **Llama.defaults,
        "num_key_value_heads": 8,
        "sliding_window": 4096,
    }

    def describe(self, config: ModelConfig) -> dict[str, Any]:
        """Return config.json; see `Format.describe`."""
        llama = super().describe(config)
        del llama["attention_bias"], llama["mlp_bias"]
        return llama | {"sliding_window": config.sliding_window}

    def parse(self, stored: Stored) -> ModelConfig:
        """Return the configuration; see `Format.parse`."""
        window = {**self.defaults, **stored}["sliding_window"]
        return replace(super().parse(stored), sliding_window=window)


def refuse_windows(stored: Stored) -> None:
    """Raise UserError if some layers have a sliding window."""
    if stored.get("use_sliding_window") or "sliding_attention" in (stored.get("layer_types") or ()):
        raise UserError(
            f"it has layers with a sliding window of {stored.get('sliding_window')}: gptfast reads "
            f"a {stored['model_type']!r} model without windows, as the published ones are"
        )


_LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
"""The same in all published models; model/positions.py has them as constants."""


def _rope(stored: Stored) -> dict[str, Any]:
    """Return the fields of ModelConfig for rotary positions.

    Raises UserError for settings that gptfast lacks.
    """
    # transformers before 5 stored the base beside the scaling.
    scaled = stored.get("rope_parameters") or stored.get("rope_scaling") or {}
    rope = {"rope_theta": stored["rope_theta"], **scaled}
    # "type" is the key's old name.
    scaling = rope.get("rope_type", rope.get("type", "default"))
    block_size = positive(stored, "max_position_embeddings")
    rope = rope | {"rope_type": scaling}
    known = {"rope_type": ("default", "yarn", "llama3"), "attention_factor": (None,),
             "truncate": (True,), "beta_fast": (None, 32), "beta_slow": (None, 1),
             "mscale": (None,), "partial_rotary_factor": (None, 1.0)}  # fmt: skip
    refuse_others(rope, known | {key: (value,) for key, value in _LLAMA3.items()})
    refuse_others(stored, {"partial_rotary_factor": (None, 1.0)})
    if scaling == "default":
        return {"rope_theta": rope["rope_theta"]}
    return {
        "rope_factor": positive(rope, "factor"),
        "rope_theta": rope["rope_theta"],
        "rope_scaling": scaling,
        "rope_original_context": rope.get("original_max_position_embeddings", block_size),
    }
