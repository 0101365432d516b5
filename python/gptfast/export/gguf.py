"""GGUF files, which llama.cpp, ollama and LM Studio load: weights, tokenizer and settings in one.

What a file holds is decided by `model/formats/gguf.py` and `tokenizer/gguf.py`. Here, the weights
become blocks of the wanted type, tensor by tensor, and the package `gguf` writes them.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gptfast.cli.printing import lossy_output
from gptfast.errors import UserError
from gptfast.export.end_token import quiet_row
from gptfast.export.out import check_out
from gptfast.model import GPT
from gptfast.model.finite import check_weights
from gptfast.model.folder import load_model
from gptfast.model.formats import gguf as layout
from gptfast.model.formats.gguf_tensors import to_gguf
from gptfast.ops.quantized_blocks import quantize_blocks
from gptfast.system.escape import escaped
from gptfast.system.files import write_atomically
from gptfast.tokenizer import BPETokenizer, CharTokenizer, Tokenizer
from gptfast.tokenizer import gguf as vocabulary
from gptfast.tokenizer.chat import read_chat_template

FILE_TYPES = {"f32": 0, "f16": 1, "q4_0": 2, "q4_1": 3, "q8_0": 7, "q5_0": 8, "q5_1": 9, "bf16": 32}
"""general.file_type, keyed by how the matrices are stored."""
_OWN = {torch.float32: "f32", torch.bfloat16: "bf16"}
_LARGEST = 65504.0  # of float16, in which the scales of blocks are stored, too


def export_gguf(folder: Path, out: Path, kind: str = "auto") -> None:
    """Write a model folder as a GGUF file, and print what was written.

    kind: of the matrices, a key of FILE_TYPES; "auto" is the weights' own. Raises UserError if
    llama.cpp can't compute the model or can't have its tokenizer, if `out` exists, or if the
    package `gguf` is not installed.
    """
    gguf = layout.package()
    check_out(out)
    model, tokenizer = load_model(folder)
    why = layout.why_not(model.config) or vocabulary.why_not(tokenizer)
    if why is not None:
        raise UserError(f"{folder} can't be written as GGUF: {why}")
    assert isinstance(model, GPT)
    check_weights(model)
    kind = _kind(folder, model, kind)
    metadata = vocabulary.to_metadata(tokenizer)
    n_tokens = len(metadata["tokenizer.ggml.tokens"])
    state, notes = _with_rows(model, tokenizer, n_tokens)
    notes += _notes(tokenizer)
    config = model.config
    metadata = {
        "general.architecture": layout.architecture_of(config),
        "general.type": "model",
        "general.name": escaped(folder.resolve().name),
        "general.file_type": FILE_TYPES[kind],
        "general.quantization_version": gguf.GGML_QUANT_VERSION,
        **layout.to_metadata(config),
        **metadata,
    }
    if (template := read_chat_template(folder)) is not None:
        metadata["tokenizer.chat_template"] = template
    size_key = f"{metadata['general.architecture']}.vocab_size"
    if size_key in metadata:
        metadata[size_key] = n_tokens
    stored = [
        _Stored(name, value, _type_of(name, value, kind)) for name, value in to_gguf(config, state)
    ]
    stored.sort(key=lambda tensor: tensor.place)  # whatever the order of the model's modules
    write_atomically(out, lambda path: _write(gguf, path, metadata, stored))
    kinds = Counter(tensor.kind for tensor in stored)
    listed = ", ".join(f"{kind} {n}" for kind, n in kinds.most_common())
    odd = [t.name for t in stored if kind.startswith("q") and t.kind == "f16"]
    if odd:
        notes.append(
            f"tensors that stay f16, because their rows are no multiple of 32 long: {len(odd)}, "
            f"such as {odd[0]}"
        )
    with lossy_output():
        size = out.stat().st_size / 1e6
        print(f"{out}: {size:,.2f} MB, {n_tokens:,} ids, tensors by type: {listed}")
        for note in notes:
            print(f"note: {note}")


def _kind(folder: Path, model: GPT, wanted: str) -> str:
    """Return how the matrices are stored. Blocks are written as they are, or not at all."""
    blocks = {"int8": "q8_0", "int4": "q4_0"}.get(str(model.quantized))
    own = blocks or _OWN[model.wte.weight.dtype]
    if blocks and wanted not in ("auto", own):
        raise UserError(
            f"--type is {wanted}, but the model in {folder} is in {model.quantized}: leave out "
            f"--type for {own}, or export the folder that it was made from"
        )
    return own if wanted == "auto" else wanted


@dataclass(frozen=True)
class _Stored:
    """A tensor of a file, and how it is stored: a key of FILE_TYPES."""

    name: str
    value: Tensor
    kind: str

    @property
    def place(self) -> tuple[int, str]:
        """The layer, or -1 for none, and the name: tensors are in this order."""
        layer = re.match(r"blk\.(\d+)", self.name)
        return int(layer[1]) if layer else -1, self.name


def _type_of(name: str, value: Tensor, kind: str) -> str:
    """Return how a tensor is stored in a file whose matrices are `kind`.

    As in files of llama.cpp's own tools: vectors, position embeddings and routers are float32; rows
    that are no multiple of a block of 32 are float16; and the tables of embeddings and outputs,
    which every probability depends on, have 8 bits where other matrices have 4 or 5.
    """
    if value.ndim == 1 or name == "position_embd.weight" or "ffn_gate_inp" in name:
        return "f32"
    if not kind.startswith("q"):
        return kind
    if value.dtype != torch.uint8 and value.shape[-1] % 32:
        return "f16"
    return "q8_0" if name in ("token_embd.weight", "output.weight") else kind


def _encoded(gguf: Any, tensor: _Stored) -> Any:
    """Return the array that is written: float32 or float16, or the bytes of another type."""
    if tensor.value.dtype == torch.uint8:  # blocks already
        return tensor.value.contiguous().numpy()
    value = tensor.value.float().contiguous().numpy()
    if tensor.kind not in ("f32", "bf16") and np.abs(value).max() > _LARGEST:
        raise UserError(
            f"{tensor.name} holds {np.abs(value).max():.3g}, and {tensor.kind} nothing above "
            f"{_LARGEST:,.0f}: choose --type bf16 or f32"
        )
    return gguf.quants.quantize(value, gguf.GGMLQuantizationType[tensor.kind.upper()])


def _write(gguf: Any, path: Path, metadata: Mapping[str, Any], tensors: list[_Stored]) -> None:
    writer = gguf.GGUFWriter(None, metadata["general.architecture"])
    for tensor in tensors:
        kind = gguf.GGMLQuantizationType[tensor.kind.upper()]
        block, size = gguf.GGML_QUANT_SIZES[kind]
        shape = tuple(tensor.value.shape)
        dtype = np.dtype({"f32": np.float32, "f16": np.float16}.get(tensor.kind, np.uint8))
        if dtype == np.uint8 and tensor.value.dtype != torch.uint8:
            shape = (*shape[:-1], shape[-1] // block * size)
        n_bytes = math.prod(shape) * dtype.itemsize
        writer.add_tensor_info(tensor.name, shape, dtype, n_bytes, kind)
    for key, value in metadata.items():
        if key == "general.architecture":  # the writer has added it
            continue
        if isinstance(value, int) and not isinstance(value, bool):
            writer.add_uint32(key, value)
        else:
            writer.add_key_value(key, value, gguf.GGUFValueType.get_type(value))
    writer.add_size_label(gguf.size_label(*writer.get_total_parameter_count()))
    try:
        writer.write_header_to_file(path)
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for tensor in tensors:
            writer.write_tensor_data(_encoded(gguf, tensor))
    finally:
        writer.close()


def _with_rows(
    model: GPT, tokenizer: Tokenizer, n_tokens: int
) -> tuple[dict[str, Tensor], list[str]]:
    """Return the weights with a row of embedding and output for each of the tokens, and notes.

    A vocabulary may be padded, and llama.cpp would sample the padding.
    """
    state = {n.replace(".blocks", ".weight"): value for n, value in model.state_dict().items()}
    notes = []
    tables = ["wte.weight"] if model.config.tie_embeddings else ["wte.weight", "lm_head.weight"]
    for name in tables:
        state[name] = state[name][:n_tokens]
    if (n_cut := model.config.vocab_size - n_tokens) > 0:
        notes.append(f"rows of the padded vocabulary that were left out: {n_cut:,}")
    if n_tokens > tokenizer.n_vocab:
        row, p, n_measured = quiet_row(model)
        for name in tables:
            table = state[name][: tokenizer.n_vocab]
            end = row[None] if name == tables[-1] else torch.zeros_like(row[None])
            is_float = table.is_floating_point()
            end = end.to(table.dtype) if is_float else quantize_blocks(end, "q8_0")
            state[name] = torch.cat([table, end])
        notes.append(
            f"an end token was added, because the tokenizer has none and llama.cpp needs one; its "
            f"probability was at most {p:.0e} on {n_measured:,} tokens of the model's own samples"
        )
    return state, notes


def _notes(tokenizer: Tokenizer) -> list[str]:
    """Return what llama.cpp does otherwise with this tokenizer."""
    notes = []
    if isinstance(tokenizer, CharTokenizer):
        n = tokenizer.n_vocab - len(tokenizer.special_tokens)
        notes.append(f"llama.cpp drops what is not among the {n} characters of the vocabulary")
    if tokenizer.roles.stop:
        notes.append(f"llama.cpp has no key for the stop tokens {', '.join(tokenizer.roles.stop)}")
    if isinstance(tokenizer, BPETokenizer) and tokenizer.normalizer is not None:
        notes.append("llama.cpp normalizes no text: give it text in NFC for the ids of gptfast")
    return notes
