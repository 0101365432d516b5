"""GGUF, the format of llama.cpp: what it can express of a model, and the keys that say it.

llama.cpp computes a model by the name of its architecture, so a file can hold only what one of them
does: "gpt2", or "llama", which is Llama's and Mixtral's. The keys are those of llama.cpp
(https://github.com/ggml-org/llama.cpp, gguf-py/gguf/constants.py). The weights are in
`gguf_tensors.py`. `gptfast.export` writes the file, and `gptfast.convert` reads it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gptfast.errors import UserError, as_float, as_int
from gptfast.model.config import ModelConfig
from gptfast.model.formats.base import spelled_shortest

Metadata = Mapping[str, Any]
"""The keys and values of a GGUF file. An int is a uint32, a float a float32."""

NO_BIAS = "gptfast.bias"
"""Our own key, false for a GPT-2 without biases, whose biases in the file are all zero."""

_EXPRESSED: dict[str, dict[str, Any]] = {
    "gpt2": {"norm": "layernorm", "activation": "gelu", "n_expert": 0},
    "llama": {"norm": "rmsnorm", "activation": "swiglu"},
}
"""The only value that an architecture has of a field of ModelConfig."""
_NOWHERE = {
    "qk_norm": False,
    "max_ngram": 1,
    "embedding_norm": False,
    "logit_softcap": None,
}
"""The fields that neither architecture has, and what they are without them."""


def package() -> Any:
    """Return the package `gguf`. Raises UserError if it is not installed."""
    try:
        import gguf
    except ImportError as error:
        raise UserError(f'GGUF needs a library ({error}): pip install "gptfast[gguf]"') from error
    return gguf


def architecture_of(config: ModelConfig) -> str:
    """Return "llama" for rotary positions, else "gpt2". Ask `why_not` first."""
    return "llama" if config.positions == "rotary" else "gpt2"


def why_not(config: ModelConfig) -> str | None:
    """Return in a sentence why llama.cpp can't compute this model; None if it can.

    The sentence names the field of ModelConfig, and says what to do.
    """
    if config.architecture != "gpt":
        return f"architecture is {config.architecture!r}: llama.cpp has only transformers"
    if config.positions == "none":
        return (
            "positions is 'none': llama.cpp has 'learned' (GPT-2) and 'rotary' (Llama) positions; "
            "train with --positions rotary"
        )
    name = architecture_of(config)
    known = {"gpt2": "GPT-2", "llama": "Llama"}[name]
    wanted = {**_EXPRESSED[name], **_NOWHERE}
    others = [
        f"{field} {getattr(config, field)!r} instead of {value!r}"
        for field, value in wanted.items()
        if getattr(config, field) != value
    ]
    if others:
        return (
            f"the model has {', '.join(others)}: llama.cpp computes {config.positions} positions "
            f"only as {known} does; train a model with those values"
        )
    if config.n_expert and config.expert_balance != "loss":
        return (
            f"expert_balance is {config.expert_balance!r}: llama.cpp's Mixtral has no bias that "
            f"chooses experts; train with --expert-balance loss"
        )
    if config.sliding_window is not None and config.sliding_window < config.block_size:
        return (
            f"sliding_window is {config.sliding_window} of block_size {config.block_size}: "
            f"llama.cpp ignores windows in a {known}, and would write other text; train without "
            f"--sliding-window"
        )
    return None


def to_metadata(config: ModelConfig) -> dict[str, Any]:
    """Return the keys of the architecture. The configuration is one that `why_not` accepts."""
    name = architecture_of(config)
    found: dict[str, Any] = {
        "context_length": config.block_size,
        "embedding_length": config.n_embd,
        "block_count": config.n_layer,
        "feed_forward_length": config.hidden_width,
        "attention.head_count": config.n_head,
    }
    if name == "gpt2":
        if config.key_value_heads != config.n_head:
            found["attention.head_count_kv"] = config.key_value_heads
        found["attention.layer_norm_epsilon"] = config.norm_eps
    else:
        found |= {
            "attention.head_count_kv": config.key_value_heads,
            "attention.layer_norm_rms_epsilon": config.norm_eps,
            "vocab_size": config.vocab_size,
            "rope.dimension_count": config.head_width,
            "rope.freq_base": _base(config),
        }
    if config.rope_scaling == "yarn":
        found["rope.scaling.type"] = "yarn"
        found["rope.scaling.factor"] = config.rope_factor
        found["rope.scaling.original_context_length"] = round(
            config.block_size / config.rope_factor
        )
    if config.n_expert:
        found["expert_count"] = config.n_expert
        found["expert_used_count"] = config.n_expert_active
    metadata = {f"{name}.{key}": value for key, value in found.items()}
    if name == "gpt2" and not config.bias:
        metadata[NO_BIAS] = False
    return metadata


def _base(config: ModelConfig) -> float:
    """Return the base of the rotary frequencies. 'ntk' is nothing but a larger one."""
    D = config.head_width
    if config.rope_scaling == "ntk" and D > 2:
        return float(config.rope_theta * config.rope_factor ** (D / (D - 2)))
    return config.rope_theta


def from_metadata(metadata: Metadata, n_vocab: int, tensor_names: Collection[str]) -> ModelConfig:
    """Return the configuration of a file, the inverse of `to_metadata`.

    n_vocab: the number of its tokens. tensor_names: of its tensors, which say whether there are
    biases and an output matrix. Raises UserError for what gptfast can't compute.
    """
    name = metadata.get("general.architecture")
    if name not in _EXPRESSED:
        raise UserError(
            f"general.architecture is {name!r}: gptfast reads {', '.join(map(repr, _EXPRESSED))}"
        )
    keys = _Keys({k: v for k, v in metadata.items() if k.startswith(f"{name}.")}, f"{name}.")
    heads, width = keys.whole("attention.head_count"), keys.whole("embedding_length")
    common: dict[str, Any] = {
        "vocab_size": n_vocab,
        "block_size": keys.whole("context_length"),
        "n_layer": keys.whole("block_count"),
        "n_head": heads,
        "n_embd": width,
        "n_hidden": keys.whole("feed_forward_length"),
        "n_kv_head": keys.whole("attention.head_count_kv", heads),
        "tie_embeddings": "output.weight" not in tensor_names,
    }
    keys.only("vocab_size", n_vocab)
    if name == "gpt2":
        config = ModelConfig(
            **common,
            norm_eps=keys.number("attention.layer_norm_epsilon"),
            bias=metadata.get(NO_BIAS) is not False,
        )
    else:
        D = width // heads
        for key in ("rope.dimension_count", "attention.key_length", "attention.value_length"):
            keys.only(key, D)
        config = ModelConfig(
            **common,
            norm="rmsnorm",
            norm_eps=keys.number("attention.layer_norm_rms_epsilon"),
            positions="rotary",
            activation="swiglu",
            bias="blk.0.attn_q.bias" in tensor_names,
            rope_theta=keys.number("rope.freq_base", 10_000.0),
            **_scaling(keys, common["block_size"]),
            **_experts(keys),
        )
    keys.refuse_rest()
    return spelled_shortest(config)


def _scaling(keys: _Keys, block_size: int) -> dict[str, Any]:
    kind = keys.take("rope.scaling.type", "none")
    keys.take("rope.scaling.finetuned", False)  # says how it came about, and changes nothing
    if kind == "none":
        keys.only("rope.scaling.factor", 1.0)
        return {}
    if kind != "yarn":
        raise UserError(f"{keys.prefix}rope.scaling.type is {kind!r}: gptfast reads 'yarn' alone")
    factor = keys.number("rope.scaling.factor")
    config = {"rope_scaling": "yarn", "rope_factor": factor}
    keys.only("rope.scaling.original_context_length", round(block_size / max(factor, 1)))
    return config


def _experts(keys: _Keys) -> dict[str, Any]:
    n_expert = keys.whole("expert_count", 0)
    if not n_expert:
        keys.only("expert_used_count", 0)
        return {}
    return {"n_expert": n_expert, "n_expert_active": keys.whole("expert_used_count")}


@dataclass
class _Keys:
    """The keys of an architecture that are not used yet, without their prefix."""

    values: dict[str, Any]
    prefix: str

    def take(self, key: str, default: Any) -> Any:
        return self.values.pop(self.prefix + key, default)

    def whole(self, key: str, default: int | None = None) -> int:
        value = self.take(key, default)
        return as_int(self.prefix + key, self._given(key, value))

    def number(self, key: str, default: float | None = None) -> float:
        """Return the shortest decimal that is the float32 of the file: 1e-05, not 9.99...e-06."""
        value = as_float(self.prefix + key, self._given(key, self.take(key, default)))
        with np.errstate(over="ignore"):
            return float(str(np.float32(value)))

    def only(self, key: str, value: Any) -> None:
        """Raise UserError if the file has another value than the only one that gptfast has."""
        found = self.take(key, value)
        if found != value:
            raise UserError(f"{self.prefix}{key} is {found!r}: gptfast has only {value!r} there")

    def refuse_rest(self) -> None:
        for key, value in self.values.items():
            raise UserError(f"{key} is {value!r}: gptfast does not know this key")

    def _given(self, key: str, value: Any) -> Any:
        if value is None:
            raise UserError(f"{self.prefix}{key} is missing")
        return value
