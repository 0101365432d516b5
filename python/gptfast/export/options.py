"""The options of `gptfast export`'s subcommands."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

Folder = Annotated[Path, tyro.conf.Positional]


@dataclass(frozen=True, kw_only=True)
class Gguf:
    """Write a GGUF file, which llama.cpp, ollama and LM Studio load."""

    folder: Folder
    """The model folder, such as runs/shakespeare."""
    out: Path
    """The file to write, such as model.gguf. It must not exist yet."""
    type: Literal["auto", "f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "q5_0", "q5_1"] = "auto"
    """How the matrices are stored. 'auto' is as in the folder: f32, or after
    `gptfast quantize` q8_0 for int8, q4_0 for int4, bf16 for bf16."""


@dataclass(frozen=True, kw_only=True)
class Html:
    """Write one HTML page that runs the model in a browser."""

    folder: Folder
    """The model folder, such as runs/shakespeare."""
    out: Path
    """The file to write, such as my-gpt.html. It must not exist yet."""
    prompt: str = ""
    """The text that the page begins with. Without one, it writes a sample when it opens."""


@dataclass(frozen=True, kw_only=True)
class Onnx:
    """Write an ONNX graph with a cache of keys and values."""

    folder: Folder
    """The model folder, such as runs/shakespeare."""
    out: Path
    """The file to write, such as model.onnx. It must not exist yet, nor a model.onnx.data beside
    it, which holds weights of more than 1 GiB."""


@dataclass(frozen=True)
class Export:
    """Write a model in the format of another program."""

    command: Annotated[
        Annotated[Gguf, tyro.conf.subcommand("gguf")]
        | Annotated[Html, tyro.conf.subcommand("html")]
        | Annotated[Onnx, tyro.conf.subcommand("onnx")],
        tyro.conf.arg(name=""),
    ]
