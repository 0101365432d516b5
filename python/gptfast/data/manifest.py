"""The folder that `gptfast data prepare` writes, and how training opens it.

`train/` and `val/` hold token shards, `tokenizer.json` made them, and `data.json`, written last,
says what they are.
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

_PLAN_KEYS = {"format", "source", "tokenizer", "val_fraction"}
"""Some of them, which an older version wrote as well."""


@dataclass(frozen=True)
class Description:
    """What is in `data.json`. Sizes of text in bytes of UTF-8."""

    report: DataReport
    """Its overlap is that of the samples whose sizes are below."""
    duplicates: int
    """Documents left out because an earlier one has the same bytes."""
    skipped: int
    """Lines, rows and ends of files left out because they could not be read."""
    compared_train_bytes: int
    compared_val_bytes: int
    train_shards: list[str]
    """In their order, as paths inside of the folder."""
    val_shards: list[str]
    made_from: dict[str, Any]
    """The files or the data set, the tokenizer's fingerprint, and the options that decide."""

    def write(self, folder: Path) -> None:
        """Write `data.json`, whole or not at all."""
        write_text_atomically(folder / "data.json", json.dumps(asdict(self), indent=2) + "\n")

    @classmethod
    def read(cls, folder: Path) -> Description:
        """Read `data.json`. Raises MissingFileError, or UserError if it is damaged."""
        path = folder / "data.json"
        if not path.is_file():
            raise MissingFileError(f"no data.json in {folder}: expected a prepared data set")
        try:
            content = json.loads(path.read_bytes())
            return cls(**content | {"report": DataReport(**content["report"])})
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{path} is damaged or not gptfast's ({error!r}): if {folder} was prepared with "
                f"gptfast, delete it and prepare again"
            ) from error


def is_prepared(folder: Path) -> bool:
    """Whether a folder is one that `gptfast data prepare` wrote, to its end."""
    return (folder / "data.json").is_file()


def read_plan(folder: Path) -> dict[str, Any] | None:
    """Read `plan.json`; None if there is none, or none that `gptfast data prepare` writes."""
    try:
        plan = json.loads((folder / "plan.json").read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return plan if isinstance(plan, dict) and plan.keys() >= _PLAN_KEYS else None


def open_prepared(folder: Path) -> Dataset:
    """Open a folder that `gptfast data prepare` wrote.

    Raises MissingFileError if it is none, UserError if something in it is lost or damaged, if
    another tokenizer than the folder's made a shard, or if an id is none of that tokenizer's.
    """
    description = Description.read(folder)
    with damage_in(folder):
        tokenizer = load_tokenizer(folder)
        train, val = (
            TokenShards([Shard.open(folder / name) for name in names], tokenizer)
            for names in (description.train_shards, description.val_shards)
        )
    report = replace(description.report, corpus=str(folder))  # wherever it lies now
    return Dataset(folder, tokenizer, train, val, report)


def check_whole(folder: Path, description: Description) -> None:
    """Raise UserError where `open_prepared` would, but without looking at each id."""
    with damage_in(folder):
        tokenizer = load_tokenizer(folder)
        for name in (*description.train_shards, *description.val_shards):
            Shard.open(folder / name).tokens(tokenizer)


@contextmanager
def damage_in(folder: Path) -> Iterator[None]:
    """Complain of a file that is lost or damaged together with what to do about the folder."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{folder} is damaged ({error}): delete it and prepare again") from error
