"""Read and write a model folder, in the layout that Hugging Face users expect.

A folder has config.json, model.safetensors, tokenizer.json, tokenizer_config.json and
generation_config.json. A model that GPT-2's, Llama's, Mistral's or Mixtral's format can express is
stored in that format (model/formats/): `transformers` loads the folder, and this module loads
folders of these formats that `transformers` saved. No file is a pickle.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as load_bytes
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from gptfast.errors import MissingFileError, UserError
from gptfast.model import LanguageModel, ModelConfig, build_model, formats
from gptfast.model.config import RopeScaling
from gptfast.system.escape import escaped
from gptfast.system.files import is_file, write_atomically, write_text_atomically
from gptfast.tokenizer import Tokenizer, load_tokenizer

FILES = (
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
)
"""The files that `save_description` and `save_weights` write."""


def save_weights(
    model: LanguageModel, path: Path, state: Mapping[str, Tensor] | None = None
) -> None:
    """Write the weights to `path` atomically. Raises OSError.

    state: the full state, if the model itself is sharded.
    """
    stored = formats.to_stored(model.config, model.state_dict() if state is None else state)
    tensors = {name: t.detach().cpu().contiguous() for name, t in stored.items()}
    try:
        write_atomically(path, lambda p: save_file(tensors, p, metadata={"format": "pt"}))
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        if number is not None:  # so that a full disk is known as one
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error
        raise OSError(f"can't write {path}: {error}") from error


def save_description(folder: Path, config: ModelConfig, tokenizer: Tokenizer) -> None:
    """Write all files of a model folder except the weights. Creates the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(folder, max_length=config.block_size)
    bos, eos, pad = (tokenizer.role_id(role) for role in ("bos", "eos", "pad"))
    _write_json(folder / "config.json", formats.describe(config, bos=bos, eos=eos, pad=pad))
    stops = sorted(tokenizer.stop_tokens)
    generation = {
        "do_sample": True,
        "bos_token_id": bos,
        "eos_token_id": stops if len(stops) > 1 else eos,
        "pad_token_id": pad,
    }
    _write_json(folder / "generation_config.json", generation)


def load_model(
    folder: str | Path,
    *,
    rope_scaling: RopeScaling = "none",
    rope_factor: float = 1.0,
) -> tuple[LanguageModel, Tokenizer]:
    """Load a model folder: the model in evaluation mode on the CPU, and its tokenizer.

    rope_scaling, rope_factor: how to stretch the context, as in `gptfast.load`. Raises
    MissingFileError if a file is missing, PermissionError if it may not be read, UserError if a
    file is damaged or doesn't fit the others.
    """
    folder = Path(folder)
    refuse_pickles(folder)
    if not is_file(folder / "config.json"):
        raise MissingFileError(
            f"no model in {folder}: expected a folder with config.json, model.safetensors and "
            f"tokenizer.json, as `python -m gptfast.train --out {folder}` writes"
        )
    config = read_config(folder / "config.json")
    tokenizer = load_tokenizer(folder)
    if tokenizer.n_vocab > config.vocab_size:
        raise UserError(
            f"the tokenizer in {folder} has {tokenizer.n_vocab} ids, but the model has only "
            f"{config.vocab_size}: they don't belong together; take both from the same model"
        )
    is_stretched = rope_factor != 1 or rope_scaling != "none"
    model = build_model(stretched(config, rope_scaling, rope_factor) if is_stretched else config)
    load_weights(model, folder / "model.safetensors", stored_as=config)
    return model.eval(), tokenizer


def stretched(config: ModelConfig, rope_scaling: RopeScaling, rope_factor: float) -> ModelConfig:
    """Return the configuration for a context `rope_factor` times as long.

    Raises UserError if its positions can't be stretched.
    """
    if not 1 <= rope_factor < math.inf:
        raise UserError(f"rope_factor is {rope_factor}: expected at least 1, and finite")
    if config.positions != "rotary" or config.rope_scaling not in ("none", rope_scaling):
        raise UserError(
            f"rope_scaling {rope_scaling!r} can't stretch positions {config.positions!r} with "
            f"rope_scaling {config.rope_scaling!r}: expected positions 'rotary' that are not "
            f"stretched, or stretched in the same way"
        )
    return replace(
        config,
        block_size=round(config.block_size * rope_factor),
        rope_scaling=rope_scaling,
        rope_factor=config.rope_factor * rope_factor,
    )


def load_weights(
    model: LanguageModel,
    path: Path,
    load: Callable[[LanguageModel, dict[str, Tensor]], object] = nn.Module.load_state_dict,
    stored_as: ModelConfig | None = None,
) -> None:
    """Load a model.safetensors into `model`. Raises MissingFileError or UserError.

    load: loads a full state into the model, if the model is sharded. stored_as: the configuration
    stored beside the file, if it differs from the model's, as for a stretched context.
    """
    tensors: dict[str, Tensor] = {}
    for file in _files_of(path):
        tensors |= _read(file)
    state = model.state_dict()
    try:
        found = formats.from_stored(stored_as or model.config, state, tensors)
    except RuntimeError as error:  # parts of one tensor whose shapes don't match
        raise UserError(f"{path} does not fit its config.json: {error}") from error
    wrong = [
        *(f"{name} is missing" for name in state if name not in found),
        *(f"{name} is unexpected" for name in found if name not in state),
        *(
            f"{name} has the shape {tuple(found[name].shape)} instead of {tuple(tensor.shape)}"
            for name, tensor in state.items()
            if name in found and found[name].shape != tensor.shape
        ),
    ]
    if wrong:
        raise UserError(
            f"{path} does not fit its config.json: {wrong[0]} (tensors that don't fit: "
            f"{len(wrong)}); take both files from the same model"
        )
    load(model, found)


def _read(file: Path) -> dict[str, Tensor]:
    try:
        with file.open("rb") as opened:  # safetensors would call a file without permission missing
            if str(file) != escaped(str(file)):  # safetensors opens only files whose path is UTF-8
                return load_bytes(opened.read())
        return load_file(file)
    except SafetensorError as error:
        what = _what_it_is(file) or str(error)
        raise UserError(f"{file} is not a complete safetensors file: {what}") from error


_BEGINNINGS = (
    (b"version https://git-lfs", "it is a Git LFS pointer; run `git lfs pull` in its folder"),
    (b"PK\x03\x04", "it is a pickle of PyTorch, which may run code; fetch safetensors"),
    (b"GGUF", "it is a GGUF file; fetch safetensors"),
    (b"<", "it is a web page; download the file itself"),
)
"""How a file of another kind begins, what it is, and what to do."""


def _what_it_is(file: Path) -> str | None:
    """Return what a file of another kind is, and what to do; None if its beginning doesn't tell."""
    with file.open("rb") as opened:
        head = opened.read(32)
    if not head:
        return "it is empty; fetch or write it again"
    return next((what for magic, what in _BEGINNINGS if head.startswith(magic)), None)


def _files_of(path: Path) -> list[Path]:
    """Return the weights file, or the files into which `transformers` splits large weights."""
    if path.is_file():
        return [path]
    index = path.with_name(f"{path.name}.index.json")
    if not index.is_file():
        raise MissingFileError(f"no weights at {path}: {_why_none(path)}")
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        files = [path.with_name(name) for name in sorted(names)]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        what = _what_it_is(index) or _in_words(error)
        raise UserError(f"{index} is not an index of weights: {what}") from error
    for file in files:
        if not file.is_file():
            raise MissingFileError(f"no {file.name} in {path.parent}, but {index} lists it")
    return files


def _why_none(path: Path) -> str:
    """Return why there is no weights file, and what to do."""
    if path.is_symlink():
        return f"it is a link to {path.readlink()}, which does not exist; fetch that file"
    if path.is_dir():
        return "it is a folder; expected a safetensors file"
    if (path.parent / "run.json").exists():
        return "the training run has not saved any yet"
    others = sorted(file.name for file in path.parent.glob("*.safetensors"))
    if others:
        return f"there is {others[0]}; fetch the files that transformers saves, or rename it"
    return "copy or fetch the file from where the model is from"


_CONVERT = (
    "transformers converts it: AutoModelForCausalLM.from_pretrained({folder!r})"
    ".save_pretrained('converted'); copy tokenizer.json as well"
)
_TAKE_OTHER = "take the folder of the same model in transformers' format, with safetensors"
_PICKLE = "a pickle, which may run code, so gptfast doesn't load it"
_OTHER_WEIGHTS = (
    ("pytorch_model*.bin", _PICKLE, _CONVERT),
    ("pytorch_model.bin.index.json", "an index of pickles, which may run code", _TAKE_OTHER),
    ("consolidated*.pth", _PICKLE, _TAKE_OTHER),
    ("consolidated*.safetensors", "weights in Mistral's own format", _TAKE_OTHER),
    ("*.pt", _PICKLE, "`gptfast import nanogpt {file} --out converted` converts nanoGPT's"),
    ("*.pth", _PICKLE, _TAKE_OTHER),
    ("*.ckpt", _PICKLE, _TAKE_OTHER),
    ("adapter_model.*", "an adapter, which is no model alone", "merge it into its model with "
     "peft's merge_and_unload, and save that"),
    ("*.gguf", "a model for llama.cpp", _TAKE_OTHER),
    ("tf_model*.h5", "a model for TensorFlow", _TAKE_OTHER),
    ("flax_model*.msgpack", "a model for Flax", _TAKE_OTHER),
    ("*.onnx", "a model for ONNX", _TAKE_OTHER),
)  # fmt: skip
"""Weights in other files than safetensors: their names, what they are, and what to do."""


def refuse_pickles(folder: Path) -> None:
    """Raise UserError if a folder has its weights in pickles or other foreign files alone.

    Raises it for a file instead of a folder, too.
    """
    if folder.is_file():
        raise UserError(
            f"{folder} is a file: expected the folder of a model, such as {folder.parent}"
        )
    if any(folder.glob("model*.safetensors*")):
        return
    for pattern, what, advice in _OTHER_WEIGHTS:
        for file in sorted(folder.glob(pattern)):
            raise UserError(
                f"{file} is {what}: expected model.safetensors; "
                f"{advice.format(folder=str(folder), file=file)}"
            )


def read_config(path: Path) -> ModelConfig:
    """Read a config.json. Raises UserError if gptfast can't compute the model it describes."""
    try:
        return formats.parse(json.loads(path.read_text(encoding="utf-8")))
    except UserError as error:
        raise UserError(f"{path} can't be used: {error}") from error
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
        what = _what_it_is(path) or _in_words(error)
        raise UserError(f"{path} is not a model's configuration: {what}") from error


def _in_words(error: Exception) -> str:
    """Return what is wrong with a JSON file whose use raised `error`."""
    match error:
        case UnicodeError():
            return "it is not in UTF-8"
        case ValueError():
            return f"it is damaged JSON ({error})"
        case KeyError():
            return f"{error.args[0]} is missing"
        case _:
            return "a value has another type than expected"


def _write_json(path: Path, content: dict[str, Any]) -> None:
    write_text_atomically(path, json.dumps(content, indent=2) + "\n")
