"""Read and write a model folder, in the layout that Hugging Face users expect.

A folder has config.json, model.safetensors, tokenizer.json, tokenizer_config.json and
generation_config.json. A model that a format of model/formats/ can express, such as GPT-2's or
Llama's, is stored in it: `transformers` loads the folder, and this module loads folders of these
formats that `transformers` saved. No file is a pickle.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from gptfast.errors import MissingFileError, UserError
from gptfast.model import LanguageModel, ModelConfig, build_model, formats
from gptfast.model.adapter_folder import (
    PRECISIONS,
    WEIGHTS_FILE,
    Base,
    find_base,
    is_adapter,
    read_adapter_labels,
    read_settings,
)
from gptfast.model.config import Precision, RopeScaling
from gptfast.model.foreign import in_words, refuse_pickles, what_it_is
from gptfast.model.vision_config import VisionConfig
from gptfast.model.weights_file import read_weights
from gptfast.system.files import is_file, write_atomically, write_text_atomically
from gptfast.tokenizer import Tokenizer, load_tokenizer

T = TypeVar("T")

FILES = (
    "adapter_config.json",
    "adapter_model.safetensors",
    "adapter_base.json",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "preprocessor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
)
"""The files that `save_description`, `describe_model` and `save_weights` write."""


def save_weights(
    model: LanguageModel, path: Path, state: Mapping[str, Tensor] | None = None
) -> None:
    """Write the weights to `path` atomically. Raises OSError.

    state: the full state, if the model itself is sharded.
    """
    own = model.stored.own_state(model.state_dict() if state is None else state)
    stored = model.stored.stored_state(own)
    tensors = {name: t.detach().cpu().contiguous() for name, t in stored.items()}
    try:
        write_atomically(path, lambda p: save_file(tensors, p, metadata={"format": "pt"}))
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        if number is not None:  # so that a full disk is known as one
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error
        raise OSError(f"can't write {path}: {error}") from error


def save_description(
    folder: Path, config: ModelConfig, tokenizer: Tokenizer, precision: Precision | None = None
) -> None:
    """Write all files of the folder of a plain model, except the weights. Creates the folder.

    precision: what the model was quantized to.
    """
    described = formats.describe(config, **_role_ids(tokenizer), precision=precision)
    _save_files(folder, {"config.json": described}, tokenizer, config.block_size)


def describe_model(folder: Path, model: LanguageModel, tokenizer: Tokenizer | None) -> None:
    """Write all files of a model's folder, except the weights. Creates the folder.

    tokenizer: None for a model that reads no text.
    """
    if tokenizer is None:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in model.stored.description(bos=None, eos=(), pad=None).items():
            _write_json(folder / name, content)
        return
    described = model.stored.description(**_role_ids(tokenizer))
    _save_files(folder, described, tokenizer, model.config.block_size)


def _role_ids(tokenizer: Tokenizer) -> dict[str, Any]:
    """Return the arguments of `description` and of `formats.describe` that name tokens."""
    bos, pad = tokenizer.role_id("bos"), tokenizer.role_id("pad")
    return {"bos": bos, "eos": sorted(tokenizer.stop_tokens), "pad": pad}


def _save_files(
    folder: Path, described: Mapping[str, dict[str, Any]], tokenizer: Tokenizer, max_length: int
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(folder, max_length=max_length)
    for name, content in described.items():
        _write_json(folder / name, content)
    bos, pad = tokenizer.role_id("bos"), tokenizer.role_id("pad")
    generation = {
        "do_sample": True,
        "bos_token_id": bos,
        "eos_token_id": formats.one_or_all(sorted(tokenizer.stop_tokens)),
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

    rope_scaling, rope_factor: how to stretch the context, as in `gptfast.load`. An adapter folder
    becomes one model with its base, merged in float32. Raises MissingFileError if a file is
    missing, PermissionError if it may not be read, UserError if a file is damaged or doesn't fit
    the others.
    """
    folder = Path(folder)
    refuse_pickles(folder)
    if is_adapter(folder):
        _refuse_classifier(folder)
        return _load_adapter(folder, rope_scaling, rope_factor)
    if not is_file(folder / "config.json"):
        raise MissingFileError(
            f"no model in {folder}: expected a folder with config.json, model.safetensors and "
            f"tokenizer.json, as `python -m gptfast.train --out {folder}` writes"
        )
    _refuse_classifier(folder)
    config = read_config(folder / "config.json")
    tokenizer = load_tokenizer(folder)
    if tokenizer.n_vocab > config.vocab_size:
        raise UserError(
            f"the tokenizer in {folder} has {tokenizer.n_vocab} ids, but the model has only "
            f"{config.vocab_size}: they don't belong together; take both from the same model"
        )
    is_stretched = rope_factor != 1 or rope_scaling != "none"
    wanted = stretched(config, rope_scaling, rope_factor) if is_stretched else config
    precision = read_precision(folder / "config.json")
    if precision is None:
        model = build_model(wanted)
        load_weights(model, folder / "model.safetensors", stored_as=config)
    else:
        from gptfast.model.quantized import empty_model

        model = empty_model(wanted, precision)
        load_weights(model, folder / "model.safetensors", _assign, stored_as=config)
    return model.eval(), tokenizer


def load_float_model(folder: str | Path, purpose: str) -> tuple[LanguageModel, Tokenizer]:
    """Load a model folder as `load_model` does, in float32, for what needs float weights.

    purpose: what needs them, such as "training". Raises UserError for a model in int8 or int4, too.
    """
    model, tokenizer = load_model(folder)
    refuse_blocks(Path(folder), purpose)
    return model.float(), tokenizer


def _load_adapter(
    folder: Path, rope_scaling: RopeScaling, rope_factor: float
) -> tuple[LanguageModel, Tokenizer]:
    from gptfast.model.lora_merge import merge

    base = find_base(folder)
    refuse_blocks(base.folder, "an adapter")
    model, tokenizer = load_model(base.folder, rope_scaling=rope_scaling, rope_factor=rope_factor)
    model, tokenizer = with_adapter(folder, model.float(), tokenizer, base)
    merge(model)
    return model, tokenizer


def with_adapter(
    folder: Path, model: LanguageModel, tokenizer: Tokenizer, base: Base
) -> tuple[LanguageModel, Tokenizer]:
    """Put the adapter in a folder beside its base, in place. Return it and the folder's tokenizer.

    Float weights are rounded to those that the adapter was trained beside. tokenizer: the base's,
    for a folder without one. Raises as `load_model` does.
    """
    from gptfast.model.lora import adapted_modules, add_lora

    settings, path = read_settings(folder), folder / WEIGHTS_FILE
    tensors = read_weights(path)
    if base.bits is not None and model.quantized is None:
        from gptfast.model.quantized import round_to_blocks

        round_to_blocks(model.float(), PRECISIONS[base.bits])
    stored_as = read_config(base.folder / "config.json")
    add_lora(model, replace(settings, targets=adapted_modules(tensors)), base, stored_as)
    load_weights(model, path)
    own = is_file(folder / "tokenizer.json")
    return model.eval(), load_tokenizer(folder) if own else tokenizer


def _refuse_classifier(folder: Path) -> None:
    if read_labels(folder) is not None:
        raise UserError(
            f"the model in {folder} is a classifier or a reward model, which predicts no tokens: "
            f"expected a language model; gptfast.load_classifier loads it"
        )


def refuse_blocks(folder: Path, purpose: str) -> None:
    """Raise UserError if a folder's model is in int8 or int4, which `purpose` can't use."""
    precision = read_precision(folder / "config.json") if not is_adapter(folder) else None
    if precision in ("int8", "int4"):
        raise UserError(
            f"the model in {folder} is in {precision}: {purpose} needs float weights; give the "
            f"folder that it was made from"
        )


def _assign(model: LanguageModel, state: dict[str, Tensor]) -> None:
    """Make the tensors the model's own, in place of those on the meta device."""
    model.load_state_dict({name: t.contiguous() for name, t in state.items()}, assign=True)


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
    load: Callable[[LanguageModel, dict[str, Tensor]], object] | None = None,
    stored_as: ModelConfig | None = None,
) -> None:
    """Load a weights file into `model`. Raises MissingFileError or UserError.

    load: loads the model's own state into it, if the model is sharded. stored_as: the configuration
    stored beside the file, if it differs from the model's, as for a stretched context.
    """
    tensors = read_weights(path)
    state = model.stored.own_state(model.state_dict())
    try:
        found = model.stored.restored_state(tensors, state, stored_as)
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
        *(
            f"{name} is {found[name].dtype} instead of {tensor.dtype}"
            for name, tensor in state.items()
            if name in found and tensor.is_meta and found[name].dtype != tensor.dtype
        ),
    ]
    if wrong:
        raise UserError(
            f"{path} does not fit its config.json: {wrong[0]} (tensors that don't fit: "
            f"{len(wrong)}); take both files from the same model"
        )
    if load is None:
        model.load_state_dict(found, strict=False)  # an adapter lacks its base
    else:
        load(model, found)


def folder_config(folder: Path) -> ModelConfig:
    """Read the configuration of a folder's model; that of an adapter is its base's.

    Raises MissingFileError or UserError.
    """
    holder = find_base(folder).folder if is_adapter(folder) else folder
    if not is_file(holder / "config.json"):
        raise MissingFileError(
            f"no model in {folder}: expected a folder with config.json, model.safetensors and "
            f"tokenizer.json"
        )
    return read_config(holder / "config.json")


def read_config(path: Path) -> ModelConfig:
    """Read a config.json. Raises UserError if gptfast can't compute the model it describes."""
    return _parse_json(path, formats.parse)


def read_precision(path: Path) -> Precision | None:
    """Return what the model of a config.json was quantized to; None for float weights."""
    return _parse_json(path, formats.precision_of)


def read_labels(folder: Path) -> tuple[str, ...] | None:
    """Return the labels of a classifier's folder, in order; None if it holds no classifier."""
    if is_adapter(folder):
        return read_adapter_labels(folder)
    return _parse_json(folder / "config.json", formats.labels_of)


def read_vision_config(folder: Path) -> VisionConfig | None:
    """Return the configuration of a vision transformer's folder; None if it holds another model."""
    from gptfast.model.formats import vit

    return _parse_json(folder / "config.json", vit.parse)


def _parse_json(path: Path, parse: Callable[[dict[str, Any]], T]) -> T:
    try:
        return parse(json.loads(path.read_text(encoding="utf-8")))
    except UserError as error:
        raise UserError(f"{path} can't be used: {error}") from error
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
        what = what_it_is(path) or in_words(error)
        raise UserError(f"{path} is not a model's configuration: {what}") from error


def _write_json(path: Path, content: dict[str, Any]) -> None:
    write_text_atomically(path, json.dumps(content, indent=2) + "\n")
