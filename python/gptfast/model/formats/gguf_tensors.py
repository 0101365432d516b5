"""The tensors of a GGUF file: llama.cpp's names, and its order of the rows.

The names are those of llama.cpp (https://github.com/ggml-org/llama.cpp,
gguf-py/gguf/constants.py).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from gptfast.model.config import ModelConfig
from gptfast.model.formats.gguf import (
    ROPE_FACTORS,
    architecture_of,
    is_like_llama,
    rope_factors,
)

_BOTH = {
    "wte": ("token_embd",),
    "ln_f": ("output_norm",),
    "lm_head": ("output",),
    "ln_1": ("attn_norm",),
    "ln_2": ("ffn_norm",),
    "attn.c_proj": ("attn_output",),
}
_NAMES: dict[str, dict[str, tuple[str, ...]]] = {
    "gpt2": {
        **_BOTH,
        "wpe": ("position_embd",),
        "attn.c_attn": ("attn_qkv",),
        "mlp.c_fc": ("ffn_up",),
        "mlp.c_proj": ("ffn_down",),
    },
    "llama": {
        **_BOTH,
        "attn.c_attn": ("attn_q", "attn_k", "attn_v"),
        "attn.q_norm": ("attn_q_norm",),
        "attn.k_norm": ("attn_k_norm",),
        "mlp.c_fc": ("ffn_gate", "ffn_up"),
        "mlp.c_proj": ("ffn_down",),
        "mlp.router": ("ffn_gate_inp",),
    },
}
_NAMES |= dict.fromkeys(("qwen2", "qwen3", "smollm3"), _NAMES["llama"])
"""The modules' names in a file, one for each part of the rows, keyed by architecture and by our
name. Names within a layer lack the layer's prefix."""


@dataclass(frozen=True)
class Part:
    """A tensor of a file, which is a part of the rows of one of our parameters."""

    name: str
    n_rows: int
    n_heads: int | None = None
    """Heads whose channels llama.cpp rotates in other pairs. None if there are none."""


def parts_of(name: str, shape: tuple[int, ...], config: ModelConfig) -> list[Part]:
    """Return the tensors of a file that hold a parameter, in the order of its rows.

    name, shape: of our parameter. Rows are its last axis but one, or the only one. Raises KeyError
    for a parameter that the architecture doesn't have.
    """
    name = re.sub(r"(mlp\.c_\w+)$", r"\1.weight", name)  # the experts' matrices are no modules
    module, _, kind = name.rpartition(".")
    prefix = ""
    if in_layer := re.fullmatch(r"h\.(\d+)\.(.+)", module):
        prefix, module = f"blk.{in_layer[1]}.", in_layer[2]
    names = _NAMES[architecture_of(config)][module]
    if config.n_expert and module in ("mlp.c_fc", "mlp.c_proj"):
        names = tuple(f"{name}_exps" for name in names)
    full = [f"{prefix}{name}.{kind}" for name in names]
    n_rows = shape[0] if len(shape) == 1 else shape[-2]
    if len(full) == 3:
        heads = (config.n_head, config.key_value_heads)
        rows = [n * config.head_width for n in (*heads, heads[1])]
        in_pairs = heads if is_like_llama(config) else (None, None)
        return [Part(*part) for part in zip(full, rows, (*in_pairs, None), strict=True)]
    return [Part(name, n_rows // len(full)) for name in full]


def to_gguf(config: ModelConfig, state: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Yield the name and the value of each tensor of a file, (out, in) for matrices.

    state: the weights by our names. They may also be rows of quantized blocks, or on the meta
    device. The biases that GPT-2's architecture demands of a model without any are zero.
    """
    lacks_biases = architecture_of(config) == "gpt2" and not config.bias
    for ours, tensor in state.items():
        parts = parts_of(ours, tuple(tensor.shape), config)
        split = torch.split(tensor, [part.n_rows for part in parts], dim=_row_axis(tensor))
        for part, rows in zip(parts, split, strict=True):
            yield part.name, rows if part.n_heads is None else _neighbours(rows, part.n_heads)
            if lacks_biases and re.match(r"blk|output_norm", part.name):
                bias = torch.zeros(part.n_rows, device=tensor.device)
                yield f"{part.name.removesuffix('weight')}bias", bias
    if config.rope_scaling == "llama3":
        yield ROPE_FACTORS, rope_factors(config)


def from_gguf(
    config: ModelConfig, state: Mapping[str, Tensor], read: Callable[[str], Tensor]
) -> dict[str, Tensor]:
    """Return a model's weights from the tensors of a file, the inverse of `to_gguf`.

    state: has the names and the shapes of the weights. read: returns a tensor of the file, which
    has the shape that `to_gguf` gives it.
    """
    found = {}
    for ours, tensor in state.items():
        rows = []
        for part in parts_of(ours, tuple(tensor.shape), config):
            value = read(part.name)
            rows.append(value if part.n_heads is None else _halves(value, part.n_heads))
        found[ours] = torch.cat(rows, dim=_row_axis(tensor))
    return found


def _row_axis(tensor: Tensor) -> int:
    return 0 if tensor.ndim == 1 else -2


def _neighbours(rows: Tensor, n_heads: int) -> Tensor:
    """Reorder the rows of queries or keys: llama.cpp rotates channels 2 p and 2 p + 1 together.

    Here, p and p + D / 2 turn together, as in transformers.
    """
    return rows.reshape(n_heads, 2, -1, *rows.shape[1:]).transpose(1, 2).reshape(rows.shape)


def _halves(rows: Tensor, n_heads: int) -> Tensor:
    """Undo `_neighbours`."""
    return rows.reshape(n_heads, -1, 2, *rows.shape[1:]).transpose(1, 2).reshape(rows.shape)
