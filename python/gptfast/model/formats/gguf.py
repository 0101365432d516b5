"""GGUF, the format of llama.cpp: what it can express of a model, and the keys that say it.

llama.cpp computes a model by the name of its architecture, so a file can hold only what one of them
does: "gpt2"; "llama", which is Llama's and Mixtral's; "qwen2", "qwen3" or "smollm3". The keys are
those of llama.cpp (https://github.com/ggml-org/llama.cpp, gguf-py/gguf/constants.py). The weights
are in `gguf_tensors.py`. `gptfast.export` writes the file, and `gptfast.convert` reads it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from gptfast.errors import UserError, as_float, as_int
from gptfast.model.config import ModelConfig
from gptfast.model.formats.base import spelled_shortest
from gptfast.model.positions import rotary_settings
from gptfast.ops.rotary import rotary_frequencies

Metadata = Mapping[str, Any]
"""The keys and values of a GGUF file. An int is a uint32, a float a float32."""

NO_BIAS = "gptfast.bias"
"""Our own key, false for a GPT-2 without biases, whose biases in the file are all zero."""

_LLAMA = {"norm": "rmsnorm", "activation": "swiglu"}
_QWEN = {**_LLAMA, "bias": False, "n_expert": 0, "nope_every": None}
_EXPRESSED: dict[str, dict[str, Any]] = {
    "gpt2": {
        "norm": "layernorm", "activation": "gelu", "n_expert": 0, "head_dim": None,
        "qk_norm": False,
    },
    "llama": _LLAMA,
    "qwen2": {**_QWEN, "head_dim": None},
    "qwen3": {**_QWEN, "qkv_bias": False},
    "smollm3": {**_LLAMA, "n_expert": 0, "nope_every": 4, "qkv_bias": False},
}  # fmt: skip
"""The only value that an architecture has of a field of ModelConfig."""
_NAMES = {
    "gpt2": "GPT-2", "llama": "Llama", "qwen2": "Qwen 2", "qwen3": "Qwen 3", "smollm3": "SmolLM 3",
}  # fmt: skip
_NOWHERE = {"max_ngram": 1, "embedding_norm": False, "logit_softcap": None}
"""The fields that no architecture has, and what they are without them."""
ROPE_FACTORS = "rope_freqs.weight"
"""The tensor by which llama.cpp divides the frequencies of a "llama", as Llama 3.1 does."""


def package() -> Any:
    """Return the package `gguf`. Raises UserError if it is not installed."""
    try:
        import gguf
    except ImportError as error:
        raise UserError(f'GGUF needs a library ({error}): pip install "gptfast[gguf]"') from error
    return gguf


def architecture_of(config: ModelConfig) -> str:
    """Return the architecture that comes closest. Ask `why_not` first."""
    if config.positions != "rotary":
        return "gpt2"
    if config.qk_norm:
        return "qwen3"
    if config.nope_every is not None:
        return "smollm3"
    return "qwen2" if config.qkv_bias and not config.bias else "llama"


def is_like_llama(config: ModelConfig) -> bool:
    """Return whether llama.cpp rotates channels 2 p and 2 p + 1 together, not p and p + D / 2."""
    return architecture_of(config) in ("llama", "smollm3")


def rope_factors(config: ModelConfig) -> Tensor:
    """Return by what 'llama3' divides the frequency of each channel pair, (P,) float32."""
    plain_P = rotary_frequencies(config.head_width, config.rope_theta)
    return (plain_P / rotary_settings(config)[0]).float()


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
    config = spelled_shortest(config)
    name = architecture_of(config)
    known = _NAMES[name]
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
    if config.rope_scaling == "llama3" and name != "llama":
        return (
            f"rope_scaling is 'llama3' in a model like {known}: llama.cpp has it for Llama alone; "
            f"train with --rope-scaling yarn"
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
    if config.head_dim is not None:
        found["attention.key_length"] = found["attention.value_length"] = config.head_dim
    if config.rope_scaling == "yarn":
        found["rope.scaling.type"] = "yarn"
        found["rope.scaling.factor"] = config.rope_factor
    if config.rope_scaling in ("yarn", "llama3"):
        found["rope.scaling.original_context_length"] = config.original_context
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


def from_metadata(
    metadata: Metadata,
    n_vocab: int,
    tensor_names: Collection[str],
    slowest_factor: float | None = None,
) -> ModelConfig:
    """Return the configuration of a file, the inverse of `to_metadata`.

    n_vocab: the number of its tokens. tensor_names: of its tensors, which say whether there are
    biases and an output matrix. slowest_factor: the largest of `rope_factors`, if the file has
    them. Raises UserError for what gptfast can't compute.
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
        D = keys.whole("attention.key_length", width // max(heads, 1))
        for key in ("rope.dimension_count", "attention.value_length"):
            keys.only(key, D)
        has_qkv_bias = "blk.0.attn_q.bias" in tensor_names
        config = ModelConfig(
            **common,
            norm="rmsnorm",
            norm_eps=keys.number("attention.layer_norm_rms_epsilon"),
            positions="rotary",
            activation="swiglu",
            bias=has_qkv_bias and name != "qwen2",
            qkv_bias=has_qkv_bias,
            head_dim=D,
            qk_norm=name == "qwen3",
            nope_every=4 if name == "smollm3" else None,
            rope_theta=keys.number("rope.freq_base", 10_000.0),
            **_scaling(keys, common["block_size"], slowest_factor),
            **_experts(keys),
        )
    keys.refuse_rest()
    return spelled_shortest(config)


def _scaling(keys: _Keys, block_size: int, slowest_factor: float | None) -> dict[str, Any]:
    kind = keys.take("rope.scaling.type", "none")
    keys.take("rope.scaling.finetuned", False)  # says how it came about, and changes nothing
    if kind == "none":
        keys.only("rope.scaling.factor", 1.0)
        original = keys.whole("rope.scaling.original_context_length", 8192)  # as in Llama 3.1
        if slowest_factor is None:
            return {}
        return {
            "rope_scaling": "llama3",
            "rope_factor": slowest_factor,
            "rope_original_context": original,
        }
    if kind != "yarn":
        raise UserError(f"{keys.prefix}rope.scaling.type is {kind!r}: gptfast reads 'yarn' alone")
    factor = keys.number("rope.scaling.factor")
    original = keys.whole(
        "rope.scaling.original_context_length", round(block_size / max(factor, 1))
    )
    return {"rope_scaling": "yarn", "rope_factor": factor, "rope_original_context": original}


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
