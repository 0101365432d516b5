"""`gptfast import`: make a model folder of another program's file."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from gptfast.cli import cli
from gptfast.cli.printing import lossy_output
from gptfast.errors import UserError

if TYPE_CHECKING:
    from gptfast.tokenizer import Tokenizer

MODULE = "gptfast.convert"


@dataclass(frozen=True, kw_only=True)
class Nanogpt:
    """Make a model folder of a checkpoint of nanoGPT. No code in its files is run."""

    checkpoint: Annotated[Path, tyro.conf.Positional]
    """nanoGPT's ckpt.pt, of a version whose MLP is nn.GELU."""
    out: Path
    """The model folder to write: a new or an empty one."""
    meta: Path | None = None
    """The meta.pkl of a model of characters."""
    tokenizer: Path | None = None
    """The tokenizer of any other: a folder with a tokenizer.json, a tokenizer.json, or a tiktoken
    rank file, such as GPT-2's."""
    pattern: str | None = None
    """The split pattern of a rank file that is not one of the published ones."""


@dataclass(frozen=True, kw_only=True)
class Gguf:
    """Make a model folder of a GGUF file of GPT-2, Llama, Mixtral, Qwen 2 or 3 or SmolLM 3.

    The weights become float32.
    """

    file: Annotated[Path, tyro.conf.Positional]
    """The GGUF file, whose tokenizer is a byte-level BPE with GPT-2's or Llama 3's pattern."""
    out: Path
    """The model folder to write: a new or an empty one."""


@dataclass(frozen=True)
class Import:
    """Make a model folder of another program's file."""

    command: Annotated[
        Annotated[Nanogpt, tyro.conf.subcommand("nanogpt")]
        | Annotated[Gguf, tyro.conf.subcommand("gguf")],
        tyro.conf.arg(name=""),
    ]


def main(argv: Sequence[str]) -> int:
    """Write the folder. Returns 0; raises UserError or MissingFileError for what can't be used."""
    config = cli.parse(Import, argv, f"python -m {MODULE}").command
    if config.out.exists() and (not config.out.is_dir() or any(config.out.iterdir())):
        raise UserError(f"{config.out} already holds something: choose another --out")
    match config:
        case Nanogpt():
            import_nanogpt(config)
        case Gguf():
            import_gguf(config)
    return 0


def import_nanogpt(config: Nanogpt) -> None:
    """Write the folder of a checkpoint of nanoGPT."""
    if (config.meta is None) == (config.tokenizer is None):
        raise UserError(
            "a checkpoint says nothing of its tokenizer: give either --meta, the meta.pkl of a "
            "model of characters, or --tokenizer, such as a folder with GPT-2's tokenizer.json"
        )
    if config.meta is not None and config.pattern is not None:
        raise UserError("--pattern was given with --meta: expected it with a rank file alone")
    # These import PyTorch, which --help doesn't need.
    from gptfast.convert.nanogpt import load_characters, load_nanogpt
    from gptfast.model.folder import save_description, save_weights
    from gptfast.tokenizer.published import open_tokenizer

    model = load_nanogpt(config.checkpoint)
    tokenizer: Tokenizer
    if config.meta is not None:
        tokenizer = load_characters(config.meta)
    elif config.tokenizer is not None:
        tokenizer = open_tokenizer(config.tokenizer, config.pattern)
    if tokenizer.n_vocab > model.config.vocab_size:
        raise UserError(
            f"the tokenizer has {tokenizer.n_vocab} ids, but the model only "
            f"{model.config.vocab_size}: they don't belong together"
        )
    save_description(config.out, model.config, tokenizer)
    save_weights(model, config.out / "model.safetensors")
    with lossy_output():
        print(f"{config.out}: {model.n_parameters():,} parameters, {tokenizer.n_vocab} ids")


def import_gguf(config: Gguf) -> None:
    """Write the folder of a GGUF file."""
    from gptfast.convert.gguf import load_gguf
    from gptfast.model.folder import save_description, save_weights
    from gptfast.tokenizer.chat import write_chat_template

    loaded = load_gguf(config.file)
    save_description(config.out, loaded.model.config, loaded.tokenizer)
    if loaded.chat_template is not None:
        write_chat_template(config.out, loaded.chat_template)
    save_weights(loaded.model, config.out / "model.safetensors", loaded.state)
    with lossy_output():
        n_parameters, n_vocab = loaded.model.n_parameters(), loaded.tokenizer.n_vocab
        print(f"{config.out}: {n_parameters:,} parameters, {n_vocab} ids")
        for note in loaded.notes:
            print(f"note: {note}")


if __name__ == "__main__":
    sys.exit(cli.run(main))
