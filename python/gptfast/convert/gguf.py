"""GGUF files of llama.cpp become model folders, if their architecture is one of gptfast's.

The weights become float32. Those of a float32 file are the same numbers, so that exporting the
folder gives the same file.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gptfast.convert.gguf_file import GgufFile, StoredTensor, read_gguf
from gptfast.errors import UserError
from gptfast.model import GPT, ModelConfig
from gptfast.model.formats import gguf as layout
from gptfast.model.formats.gguf_tensors import from_gguf, to_gguf
from gptfast.tokenizer import Tokenizer
from gptfast.tokenizer import gguf as vocabulary


@dataclass(frozen=True)
class Loaded:
    """What a GGUF file holds."""

    model: GPT
    """On the meta device, without weights."""
    state: dict[str, Tensor]
    """The weights by their names in the model, float32."""
    tokenizer: Tokenizer
    chat_template: str | None
    notes: list[str]
    """What of the file is not in the folder."""


def load_gguf(path: Path) -> Loaded:
    """Read a GGUF file.

    Nothing larger than the weights in the file is allocated. Raises MissingFileError if there is no
    such file, UserError if it is damaged, if gptfast can't compute its model or lacks its
    tokenizer, or if the package `gguf` is not installed.
    """
    gguf = layout.package()
    file = read_gguf(path, gguf)
    try:
        tokenizer = vocabulary.from_metadata(file.metadata)
        n_tokens = len(file.metadata["tokenizer.ggml.tokens"])
        factors_P = file.tensors.get(layout.ROPE_FACTORS)
        slowest = None if factors_P is None else float(_dequantized(factors_P, gguf).max())
        config = layout.from_metadata(file.metadata, n_tokens, file.tensors, slowest)
        if config.n_layer > len(file.tensors):
            raise UserError(f"its block_count is {config.n_layer}: it has fewer tensors")
        _check_widths(file, config)
        model = _on_meta(config)
        state = _weights(file, config, model, gguf)
    except UserError as error:
        raise UserError(f"{path} can't be used: {error}") from error
    template = file.metadata.get("tokenizer.chat_template")
    template = template if isinstance(template, str) else None
    return Loaded(model, state, tokenizer, template, _notes(file))


def _check_widths(file: GgufFile, config: ModelConfig) -> None:
    """Raise UserError unless the widths in the keys are those of tensors, which the file limits.

    A model of other widths may be too large to describe, even without weights.
    """
    C, hidden = config.n_embd, config.hidden_width
    _check_shape(file, "token_embd.weight", (config.vocab_size, C))
    _check_shape(file, "blk.0.attn_output.weight", (C, config.n_head * config.head_width))
    if config.positions == "learned":
        _check_shape(file, "position_embd.weight", (config.block_size, C))
    if config.n_expert:
        _check_shape(file, "blk.0.ffn_down_exps.weight", (config.n_expert, C, hidden))
    else:
        _check_shape(file, "blk.0.ffn_down.weight", (C, hidden))


def _check_shape(file: GgufFile, name: str, shape: tuple[int, ...] | None) -> None:
    found = file.tensors[name].shape if name in file.tensors else None
    if shape != found:
        raise UserError(f"{name} has the shape {found}: expected {shape} (None: no such tensor)")


def _on_meta(config: ModelConfig) -> GPT:
    """Return a model without weights, and without the tables of rotary positions."""
    small = config
    if config.positions == "rotary":  # whose tables take memory even on the meta device
        small = replace(
            config, block_size=1, rope_scaling="none", rope_factor=1.0, rope_original_context=None
        )
    with torch.device("meta"):
        model = GPT(small)
    model.config = config
    return model


def _weights(file: GgufFile, config: ModelConfig, model: GPT, gguf: Any) -> dict[str, Tensor]:
    """Return the weights under our names. Raises UserError where names or shapes differ."""
    state = model.state_dict()
    wanted = {name: tuple(value.shape) for name, value in to_gguf(config, state)}
    for name in wanted.keys() | file.tensors.keys():
        _check_shape(file, name, wanted.get(name))
    used = set()

    def read(name: str) -> Tensor:
        used.add(name)
        return _dequantized(file.tensors[name], gguf)

    weights = from_gguf(config, state, read)
    if config.rope_scaling == "llama3":
        factors_P = read(layout.ROPE_FACTORS)
        if not torch.allclose(factors_P, layout.rope_factors(config), rtol=1e-5, atol=0):
            raise UserError(
                f"{layout.ROPE_FACTORS} does not divide the frequencies as Llama 3.1 does, from a "
                f"context of {config.original_context}"
            )
    for name in file.tensors.keys() - used:
        if _dequantized(file.tensors[name], gguf).any():
            raise UserError(f"{name} is not zero, but {layout.NO_BIAS} says that there is none")
    return weights


def _dequantized(tensor: StoredTensor, gguf: Any) -> Tensor:
    """Return a tensor as float32. Raises UserError for a type that the package can't read."""
    kind = gguf.GGMLQuantizationType
    block, size = gguf.GGML_QUANT_SIZES[tensor.kind]
    rows = tensor.data.reshape(*tensor.shape[:-1], tensor.shape[-1] // block * size)
    if tensor.kind in (kind.F64, kind.I8, kind.I16, kind.I32, kind.I64):
        raise UserError(f"a tensor is {tensor.kind.name}: no weights of a model are")
    try:
        with np.errstate(invalid="ignore", over="ignore"):
            values = gguf.quants.dequantize(np.array(rows), tensor.kind)
    except NotImplementedError:
        raise UserError(
            f"a tensor is {tensor.kind.name}, which the package gguf can't read: take another file"
        ) from None
    return torch.from_numpy(values.astype(np.float32, copy=False))


def _notes(file: GgufFile) -> list[str]:
    """Return what of the file is not in the folder."""
    notes = []
    kinds = sorted({t.kind.name for t in file.tensors.values() if t.kind.name != "F32"})
    if kinds:
        notes.append(f"weights of the type {', '.join(kinds)} are float32 now")
    if file.metadata.get("tokenizer.ggml.add_bos_token"):
        notes.append("the file begins each text with the bos token: gptfast adds none by itself")
    return notes
