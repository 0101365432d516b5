"""How Hugging Face's formats describe a GPT and name its tensors: GPT-2, Llama, Mistral, Mixtral.

A configuration that none of them can express is stored in gptfast's own layout: ModelConfig's
fields, and the parameters under their names here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from gptfast.errors import UserError
from gptfast.model.config import Activation, ModelConfig

Stored = Mapping[str, Any]


@dataclass(frozen=True)
class Layout:
    """One of Hugging Face's formats."""

    architecture: str
    """The class of transformers that reads it."""
    describe: Callable[[ModelConfig], dict[str, Any]]
    """config.json for a configuration; what it can't express is left out."""
    parse: Callable[[Stored], ModelConfig]
    """The configuration of a config.json. Raises UserError for what a GPT can't compute."""
    pieces: Callable[[str, ModelConfig], list[str]]
    """The stored names of a parameter's rows: all of them, or equal or unequal parts in order."""


# ---- configurations ------------------------------------------------------------------------------


def layout_of(config: ModelConfig) -> str:
    """The layout that a model is stored in: the first that expresses all of its configuration."""
    for name, layout in LAYOUTS.items():
        if config.architecture == "gpt" and _expresses(layout, config):
            return name
    return "gptfast"


def _expresses(layout: Layout, config: ModelConfig) -> bool:
    try:
        return layout.parse(layout.describe(config)) == _spelled_shortest(config)
    except UserError:  # such as experts, where the config has none
        return False


def describe(config: ModelConfig, eot_token: int | None) -> dict[str, Any]:
    """The content of config.json."""
    name = layout_of(config)
    if name == "gptfast":
        return {"model_type": name, "gptfast": asdict(config)}
    return {
        "model_type": name,
        "architectures": [LAYOUTS[name].architecture],
        **LAYOUTS[name].describe(config),
        "bos_token_id": eot_token,
        "eos_token_id": eot_token,
    }


def parse(stored: Stored) -> ModelConfig:
    """The configuration that a config.json describes. Raises UserError, KeyError or TypeError."""
    name = stored["model_type"]
    if name == "gptfast":
        return ModelConfig(**stored["gptfast"])
    if name not in LAYOUTS:
        raise UserError(
            f"it describes a {name!r} model: gptfast reads {', '.join(map(repr, LAYOUTS))} "
            f"and its own"
        )
    return LAYOUTS[name].parse(stored)


def _spelled_shortest(config: ModelConfig) -> ModelConfig:
    """The same model with None where a field says what None would mean."""
    if config.n_kv_head == config.n_head:
        config = replace(config, n_kv_head=None)
    if config.hidden_width == replace(config, n_hidden=None).hidden_width:
        config = replace(config, n_hidden=None)
    return config


def _refuse_others(stored: Stored, fixed: dict[str, tuple[Any, ...]]) -> None:
    """Raise UserError where config.json has another value than those that a GPT can compute."""
    for key, ours in fixed.items():
        if stored.get(key, ours[0]) not in ours:
            raise UserError(
                f"it has {key} {stored[key]!r}: gptfast has only {' and '.join(map(repr, ours))}"
            )


_GPT2_ACTIVATIONS: dict[str, Activation] = {
    "gelu_new": "gelu",
    "gelu_pytorch_tanh": "gelu",
    "gelu": "gelu_exact",
}
"""What transformers calls our activations; the first name of each is the one that we write."""


def _describe_gpt2(config: ModelConfig) -> dict[str, Any]:
    return {
        "vocab_size": config.vocab_size,
        "n_positions": config.block_size,
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


def _parse_gpt2(stored: Stored) -> ModelConfig:
    fixed = {
        "activation_function": tuple(_GPT2_ACTIVATIONS),
        "scale_attn_weights": (True,),
        "scale_attn_by_inverse_layer_idx": (False,),
        "add_cross_attention": (False,),
    }
    _refuse_others(stored, fixed)
    config = ModelConfig(
        vocab_size=stored["vocab_size"],
        block_size=stored["n_positions"],
        n_layer=stored["n_layer"],
        n_head=stored["n_head"],
        n_embd=stored["n_embd"],
        n_hidden=stored.get("n_inner"),
        dropout=stored.get("resid_pdrop", 0.1),
        norm_eps=stored.get("layer_norm_epsilon", 1e-5),
        activation=_GPT2_ACTIVATIONS[stored.get("activation_function", "gelu_new")],
        tie_embeddings=stored.get("tie_word_embeddings", True),
    )
    return _spelled_shortest(config)


def _describe_llama(config: ModelConfig) -> dict[str, Any]:
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


def _parse_llama(stored: Stored) -> ModelConfig:
    heads = stored["num_attention_heads"]
    bias = stored.get("attention_bias", False)
    fixed = {
        "hidden_act": ("silu",),
        "head_dim": (None, stored["hidden_size"] // heads),
        "mlp_bias": (bias,),
    }
    _refuse_others(stored, fixed)
    # Before transformers 5 these two stood apart.
    rope = stored.get("rope_parameters") or {
        "rope_theta": stored.get("rope_theta", 10_000.0),
        **(stored.get("rope_scaling") or {}),
    }
    # The key's first name was "type".
    scaling = rope.get("rope_type", rope.get("type", "default"))
    block_size = stored["max_position_embeddings"]
    rope = {"original_max_position_embeddings": block_size} | rope | {"rope_type": scaling}
    fixed = {"rope_type": ("default", "yarn"), "attention_factor": (None,), "truncate": (True,),
             "beta_fast": (None, 32), "beta_slow": (None, 1), "mscale": (None,)}  # fmt: skip
    if scaling == "yarn":
        fixed["original_max_position_embeddings"] = (round(block_size / rope["factor"]),)
    _refuse_others(rope, fixed)
    config = ModelConfig(
        vocab_size=stored["vocab_size"],
        block_size=block_size,
        n_layer=stored["num_hidden_layers"],
        n_head=heads,
        n_embd=stored["hidden_size"],
        dropout=stored.get("attention_dropout", 0.0),
        n_kv_head=stored.get("num_key_value_heads"),
        norm="rmsnorm",
        norm_eps=stored.get("rms_norm_eps", 1e-6),
        bias=bias,
        positions="rotary",
        rope_theta=rope["rope_theta"],
        rope_scaling="yarn" if scaling == "yarn" else "none",
        rope_factor=rope["factor"] if scaling == "yarn" else 1.0,
        activation="swiglu",
        n_hidden=stored["intermediate_size"],
        tie_embeddings=stored.get("tie_word_embeddings", False),
    )
    return _spelled_shortest(config)


def _describe_mistral(config: ModelConfig) -> dict[str, Any]:
    llama = _describe_llama(config)
    del llama["attention_bias"], llama["mlp_bias"]
    return llama | {"sliding_window": config.sliding_window}


def _parse_mistral(stored: Stored) -> ModelConfig:
    return replace(_parse_llama(stored), sliding_window=stored.get("sliding_window", 4096))


def _describe_mixtral(config: ModelConfig) -> dict[str, Any]:
    return _describe_mistral(config) | {
        "num_local_experts": config.n_expert,
        "num_experts_per_tok": config.n_expert_active,
        # Theirs adds up what ours averages over a token's experts. (And it takes the means over all
        # layers before it multiplies, where ours takes the mean of the layers' products.)
        "router_aux_loss_coef": config.expert_balance_rate / config.n_expert_active,
    }


def _parse_mixtral(stored: Stored) -> ModelConfig:
    _refuse_others(stored, {"router_jitter_noise": (0.0, None)})
    n_active = stored["num_experts_per_tok"]
    return replace(
        _parse_llama(stored),
        sliding_window=stored.get("sliding_window"),
        n_expert=stored["num_local_experts"],
        n_expert_active=n_active,
        expert_balance_rate=round(stored.get("router_aux_loss_coef", 0.001) * n_active, 12),
    )


# ---- tensors -------------------------------------------------------------------------------------


def to_stored(config: ModelConfig, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A model's tensors under the names and in the shapes of its layout."""
    name = layout_of(config)
    if name == "gptfast":
        return dict(state)
    stored: dict[str, Tensor] = {}
    for ours, tensor in state.items():
        if _is_transposed(name, ours):
            tensor = tensor.T
        pieces = LAYOUTS[name].pieces(ours, config)
        if tensor.ndim == 3:
            tensor = tensor.flatten(0, 1)  # the rows of one expert below those of another
        sizes = _piece_sizes(ours, config, len(pieces), len(tensor))
        stored |= dict(zip(pieces, torch.split(tensor, sizes), strict=True))
    return stored


def from_stored(
    config: ModelConfig, state: Mapping[str, Tensor], stored: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The inverse of `to_stored`, for a model whose tensors are shaped like those of `state`.

    What is missing is left out, what is too much is kept, for load_weights to name.
    """
    name = layout_of(config)
    # An older version may have had no layout for what one of Hugging Face's now expresses. (GPT-2's
    # names without their prefix are ours as well, but its matrices lie the other way.)
    is_ours = {n: t.shape for n, t in stored.items()} == {n: t.shape for n, t in state.items()}
    if name == "gptfast" or is_ours:
        return dict(stored)
    if name == "gpt2":
        stored = _with_gpt2s_prefix(stored)
    rest, found = dict(stored), {}
    for ours, tensor in state.items():
        pieces = LAYOUTS[name].pieces(ours, config)
        if all(piece in rest for piece in pieces):
            rows = torch.cat([rest.pop(piece) for piece in pieces])
            if _is_transposed(name, ours):
                rows = rows.T
            found[ours] = rows.view(tensor.shape) if rows.numel() == tensor.numel() else rows
    if config.tie_embeddings:
        rest.pop("lm_head.weight", None)
    return found | rest


def _is_transposed(layout: str, name: str) -> bool:
    """GPT-2 keeps these matrices as (in, out), the transpose of nn.Linear's."""
    return layout == "gpt2" and re.search(r"c_(attn|proj|fc)\.weight$", name) is not None


def _with_gpt2s_prefix(stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """GPT-2's tensors, whose prefix may be missing; without the causal masks of old files."""
    return {
        name if name.startswith(("transformer.", "lm_head.")) else f"transformer.{name}": tensor
        for name, tensor in stored.items()
        if not name.endswith((".attn.bias", ".attn.masked_bias"))
    }


def _piece_sizes(name: str, config: ModelConfig, n_pieces: int, n_rows: int) -> list[int]:
    """How many rows each piece has: queries, keys and values differ; others are equally long."""
    if n_pieces == 3 and "attn.c_attn" in name:
        heads = (config.n_head, config.key_value_heads, config.key_value_heads)
        return [n * config.head_width for n in heads]
    return [n_rows // n_pieces] * n_pieces


def _pieces_gpt2(name: str, config: ModelConfig) -> list[str]:
    return [name if name.startswith("lm_head.") else f"transformer.{name}"]


_LLAMA_NAMES = {
    "wte": ["model.embed_tokens"],
    "ln_f": ["model.norm"],
    "lm_head": ["lm_head"],
    "ln_1": ["input_layernorm"],
    "ln_2": ["post_attention_layernorm"],
    "attn.c_attn": ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
    "attn.c_proj": ["self_attn.o_proj"],
    "mlp.c_fc": ["mlp.gate_proj", "mlp.up_proj"],
    "mlp.c_proj": ["mlp.down_proj"],
    "mlp.router": ["block_sparse_moe.gate"],
}
_MIXTRAL_EXPERT_NAMES = {"mlp.c_fc": ("w1", "w3"), "mlp.c_proj": ("w2",)}


def _pieces_llama(name: str, config: ModelConfig) -> list[str]:
    module, _, kind = name.rpartition(".")
    prefix = ""
    if in_layer := re.fullmatch(r"h\.(\d+)\.(.+)", module):
        prefix, module = f"model.layers.{in_layer[1]}.", in_layer[2]
    return [f"{prefix}{piece}.{kind}" for piece in _LLAMA_NAMES[module]]


def _pieces_mixtral(name: str, config: ModelConfig) -> list[str]:
    expert = re.fullmatch(r"h\.(\d+)\.(mlp\.c_\w+)", name)
    if not expert:
        return _pieces_llama(name, config)
    return [
        f"model.layers.{expert[1]}.block_sparse_moe.experts.{e}.{matrix}.weight"
        for e in range(config.n_expert)
        for matrix in _MIXTRAL_EXPERT_NAMES[expert[2]]
    ]


LAYOUTS = {
    "gpt2": Layout("GPT2LMHeadModel", _describe_gpt2, _parse_gpt2, _pieces_gpt2),
    "llama": Layout("LlamaForCausalLM", _describe_llama, _parse_llama, _pieces_llama),
    "mistral": Layout("MistralForCausalLM", _describe_mistral, _parse_mistral, _pieces_llama),
    "mixtral": Layout("MixtralForCausalLM", _describe_mixtral, _parse_mixtral, _pieces_mixtral),
}
