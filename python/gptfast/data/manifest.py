"""The folder that `gptfast data prepare` writes, and how training opens it.

`train/` and `val/` hold token shards, `tokenizer.json` the tokenizer that made them. `data.json`,
written last, describes them; `skipped.jsonl` names what could not be read or encoded. While a run
is in progress, `plan.json` says what it will make.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from gptfast.data.dataset import DataReport, Dataset, TokenShards
from gptfast.data.shard import Shard
from gptfast.errors import MissingFileError, UserError
from gptfast.system.files import write_text_atomically
from gptfast.tokenizer import load_tokenizer


@dataclass(frozen=True)
class Plan:
    """Everything that determines the contents of the shards."""

    format: int
    """Version of the shards' contents."""
    source: Any
    """The files, each as [path, bytes, mtime_ns], or the data set of the Hub with its hash."""
    tokenizer: str
    """Fingerprint of the tokenizer."""
    val_fraction: float
    field: str
    column: str
    document_separator: str
    errors: str
    on_error: str
    memory_limit: int | None
    """Bytes; None unless `on_error` is "skip", where the limit affects what is left out."""

    def write(self, folder: Path) -> None:
        """Write `plan.json` atomically."""
        write_text_atomically(folder / "plan.json", json.dumps(asdict(self), indent=2) + "\n")

    @classmethod
    def read(cls, folder: Path) -> Plan | None:
        """Read `plan.json`; None if it is missing or not written by `gptfast data prepare`."""
        try:
            return cls(**json.loads((folder / "plan.json").read_bytes()))
        except (OSError, ValueError, TypeError, RecursionError):
            return None


@dataclass(frozen=True)
class Manifest:
    """The contents of `data.json`. Sizes of text are in bytes of UTF-8."""

    report: DataReport
    """Its overlap is measured on samples of the sizes below."""
    duplicates: int
    """Documents left out because an earlier one has the same bytes."""
    skipped: int
    """Lines, rows, documents and ends of files left out because they could not be read or encoded.
    `skipped.jsonl` names them, unless there are none."""
    compared_train_bytes: int
    compared_val_bytes: int
    train_shards: list[str]
    """In order, as paths relative to the folder."""
    val_shards: list[str]
    made_from: Plan

    def write(self, folder: Path) -> None:
        """Write `data.json` atomically."""
        write_text_atomically(folder / "data.json", json.dumps(asdict(self), indent=2) + "\n")

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Read `data.json`. Raises MissingFileError, or UserError if it is damaged."""
        path = folder / "data.json"
        if not path.is_file():
            raise MissingFileError(f"no data.json in {folder}: expected a prepared data set")
        try:
            content = json.loads(path.read_bytes())
            content["report"] = DataReport(**content["report"])
            content["made_from"] = Plan(**content["made_from"])
            return cls(**content)
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{path} is damaged or not gptfast's ({error!r}): if {folder} was prepared with "
                f"gptfast, delete it and prepare again"
            ) from error


def open_prepared(folder: Path) -> Dataset:
    """Open a folder that `gptfast data prepare` wrote.

    Raises MissingFileError if it wrote none, UserError if a file is missing or damaged, a shard was
    made by another tokenizer than the folder's, or an id is not one of that tokenizer.
    """
    manifest = Manifest.read(folder)
    with damage_in(folder):
        tokenizer = load_tokenizer(folder)
        train, val = (
            TokenShards([Shard.open(folder / name) for name in names], tokenizer)
            for names in (manifest.train_shards, manifest.val_shards)
        )
    report = replace(manifest.report, corpus=str(folder))  # the folder may have been moved
    return Dataset(folder, tokenizer, train, val, report)


def check_complete(folder: Path, manifest: Manifest) -> None:
    """Raise UserError where `open_prepared` would, but without checking every id."""
    with damage_in(folder):
        tokenizer = load_tokenizer(folder)
        for name in (*manifest.train_shards, *manifest.val_shards):
            Shard.open(folder / name).tokens(tokenizer)


@contextmanager
def damage_in(folder: Path) -> Iterator[None]:
    """Add to an error about a missing or damaged file what to do about the folder."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{folder} is damaged ({error}): delete it and prepare again") from error
