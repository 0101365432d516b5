"""`gptfast import`: make a model folder of another project's checkpoint."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from gptfast.cli import cli
from gptfast.cli.printing import lossy_output
from gptfast.errors import UserError

if TYPE_CHECKING:
    from gptfast.tokenizer import Tokenizer

MODULE = "gptfast.convert"


@dataclass(frozen=True, kw_only=True)
class Config:
    """Make a model folder of another project's checkpoint. No code in its files is run."""

    project: Annotated[Literal["nanogpt"], tyro.conf.Positional]
    """Whose checkpoint it is."""
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
    """The pattern of a rank file other than GPT-2's, cl100k's or o200k's."""


def main(argv: Sequence[str]) -> int:
    """Write the folder. Returns 0; raises UserError or MissingFileError for what can't be used."""
    config = cli.parse(Config, argv, f"python -m {MODULE}")
    if (config.meta is None) == (config.tokenizer is None):
        raise UserError(
            "a checkpoint says nothing of its tokenizer: give either --meta, the meta.pkl of a "
            "model of characters, or --tokenizer, such as a folder with GPT-2's tokenizer.json"
        )
    if config.meta is not None and config.pattern is not None:
        raise UserError("--pattern was given with --meta: expected it with a rank file alone")
    if config.out.exists() and (not config.out.is_dir() or any(config.out.iterdir())):
        raise UserError(f"{config.out} already holds something: choose another --out")
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
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
