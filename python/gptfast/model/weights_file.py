"""Read the tensors of a weights file, which `transformers` may have split into several."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load as load_bytes
from safetensors.torch import load_file
from torch import Tensor

from gptfast.errors import MissingFileError, UserError
from gptfast.model.foreign import in_words, what_it_is
from gptfast.system.escape import escaped


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the tensors by their stored names. Raises MissingFileError or UserError."""
    tensors: dict[str, Tensor] = {}
    for file in _files_of(path):
        tensors |= _read(file)
    return tensors


def _read(file: Path) -> dict[str, Tensor]:
    try:
        with file.open("rb") as opened:  # safetensors would call a file without permission missing
            if str(file) != escaped(str(file)):  # safetensors opens only files whose path is UTF-8
                return load_bytes(opened.read())
        return load_file(file)
    except SafetensorError as error:
        what = what_it_is(file) or str(error)
        raise UserError(f"{file} is not a complete safetensors file: {what}") from error


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
        what = what_it_is(index) or in_words(error)
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
