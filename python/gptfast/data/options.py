"""The options of `python -m gptfast.data`'s subcommands."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from gptfast.cli.path import PATH
from gptfast.data.documents import ReadOptions, TextOptions

Files = Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="FILES..."), PATH]


@dataclass(frozen=True)
class Describe(TextOptions):
    """Fetch a corpus and describe it."""

    corpus: Annotated[str, tyro.conf.Positional, PATH] = "shakespeare"
    """'shakespeare', 'tinyshakespeare', or a file, a folder, a glob or - for standard input: text,
    JSON, CSV, TSV or Parquet, also compressed, in tar or in zip."""
    copy: Path | None = None
    """Your own copy of the named source, used instead of downloading it."""
    val_fraction: float = 0.1
    """Share of the corpus, at its end, that is kept for validation."""


@dataclass(frozen=True, kw_only=True)
class Prepare:
    """Turn files, or a data set of the Hugging Face Hub, into token shards to train on.

    Run the same command again to resume after it was killed.
    """

    files: Files = ()
    """Text, JSON (lines or arrays), CSV, TSV or Parquet, also compressed (.gz, .zst, .bz2, .xz,
    .lz4) and in .tar or .zip; folders of them, globs, pipes, - for standard input."""
    dataset: Annotated[str | None, PATH] = None
    """Instead of files: OWNER/NAME of a data set on the Hub, or a folder laid out like one."""
    config: str | None = None
    """Which of the data set's configurations."""
    split: str = "train"
    """Which of the data set's splits, or a slice of one, such as 'train[:1%]'."""
    out: Path
    """Folder for the shards."""
    tokenizer: Path
    """A folder with a tokenizer.json, a tokenizer.json, or a tiktoken rank file."""
    pattern: str | None = None
    """The pattern of a rank file other than GPT-2's, cl100k's or o200k's."""
    val_fraction: float = 0.01
    """Share of the documents that is kept for validation, chosen by their hashes; 0 for none."""
    read: ReadOptions = field(default_factory=ReadOptions)


@dataclass(frozen=True)
class DataConfig:
    """Describe a corpus, or make token shards to train on."""

    command: Annotated[
        Annotated[Describe, tyro.conf.subcommand("describe")]
        | Annotated[Prepare, tyro.conf.subcommand("prepare")],
        tyro.conf.arg(name=""),
    ]
