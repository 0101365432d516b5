"""The options of `python -m gptfast.data`'s subcommands."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from gptfast.tokenizer.options import Files


@dataclass(frozen=True)
class Describe:
    """Fetch a corpus and say what it is made of."""

    corpus: Annotated[str, tyro.conf.Positional] = "shakespeare"
    """'shakespeare', 'tinyshakespeare', or the path of a file, a folder or a glob: text, .jsonl or
    .parquet."""
    copy: Path | None = None
    """Your own copy of the named source, to be used instead of fetching it."""
    val_fraction: float = 0.1
    """Share of the corpus, at its end, that is kept for validation."""


@dataclass(frozen=True, kw_only=True)
class Prepare:
    """Turn files, or a data set of the Hugging Face Hub, into token shards to train on.

    Run again with the same arguments, it goes on where it was killed.
    """

    files: Files = ()
    """Text or .jsonl, also packed as .gz or .zst, or .parquet files; folders of them; globs."""
    dataset: str | None = None
    """Instead of files: OWNER/NAME of a data set on the Hub, or a folder laid out like one."""
    config: str | None = None
    """Which of the data set's configurations."""
    split: str = "train"
    """Which of the data set's splits."""
    out: Path
    """Folder for the shards."""
    tokenizer: Path
    """A folder with a tokenizer.json, a tokenizer.json, or a tiktoken rank file."""
    pattern: str | None = None
    """The pattern of a rank file, if it isn't GPT-2's, cl100k's or o200k's."""
    val_fraction: float = 0.01
    """Share of the documents that is kept for validation; their hashes decide which."""
    field: str = "text"
    """The key of the text in .jsonl files."""
    column: str = "text"
    """The column of the text in .parquet files and data sets."""
    errors: Literal["strict", "replace"] = "strict"
    """Whether bytes that aren't UTF-8 are an error or become U+FFFD."""
    on_error: Literal["raise", "skip"] = "raise"
    """What to do with a broken line or file: stop, or leave it out and count it."""
    n_threads: int | None = None
    """Threads to use; all cores by default."""
    memory_limit: str | None = None
    """Memory to stay below while encoding, such as 600MB or 2GB."""


@dataclass(frozen=True)
class DataConfig:
    """Look at a corpus, or make token shards to train on."""

    command: Annotated[
        Annotated[Describe, tyro.conf.subcommand("describe")]
        | Annotated[Prepare, tyro.conf.subcommand("prepare")],
        tyro.conf.arg(name=""),
    ]
