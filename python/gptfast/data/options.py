"""The options of `python -m gptfast.data`'s subcommands."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

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
    """The split pattern of a rank file that is not one of the published ones."""
    val_fraction: float = 0.01
    """Share of the documents that is kept for validation, chosen by their hashes; 0 for none."""
    read: ReadOptions = field(default_factory=ReadOptions)


@dataclass(frozen=True, kw_only=True)
class ImportBin:
    """Make a folder to train on of the token files of nanoGPT or llm.c."""

    files: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="FILES...")]
    """The files to train on, in order. Those of llm.c say so in their header; a file without one is
    nanoGPT's, ids of 16 bits alone."""
    val: Annotated[tuple[Path, ...], tyro.conf.UseAppendAction] = ()
    """A file to validate on; repeat the option for more."""
    out: Path
    """Folder for the shards: a new or an empty one."""
    tokenizer: Path
    """What made the ids: a folder with a tokenizer.json, a tokenizer.json, or a tiktoken rank
    file."""
    pattern: str | None = None
    """The split pattern of a rank file that is not one of the published ones."""


@dataclass(frozen=True, kw_only=True)
class ExportBin:
    """Write the tokens of a prepared folder as files for nanoGPT or llm.c: train.bin, val.bin."""

    folder: Annotated[Path, tyro.conf.Positional]
    """What `gptfast data prepare` or `import-bin` wrote."""
    out: Path
    """Folder for the two files."""
    format: Literal["nanogpt", "llmc", "llmc-llama3"] = "nanogpt"
    """nanogpt: ids of 16 bits alone; llmc: the same after llm.c's header; llmc-llama3: ids of 32
    bits after its header."""


@dataclass(frozen=True)
class DataConfig:
    """Describe a corpus, make token shards to train on, or convert those of others."""

    command: Annotated[
        Annotated[Describe, tyro.conf.subcommand("describe")]
        | Annotated[Prepare, tyro.conf.subcommand("prepare")]
        | Annotated[ImportBin, tyro.conf.subcommand("import-bin")]
        | Annotated[ExportBin, tyro.conf.subcommand("export-bin")],
        tyro.conf.arg(name=""),
    ]
