"""How a model's run read its files, for commands that read text for the model later."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gptfast.data.dataset import is_prepared
from gptfast.data.documents import ReadOptions
from gptfast.train.record import read_record
from gptfast.train.resume import READING

Say = Callable[[str], None]
"""Prints a note."""


def reading(model: Path, corpus: str, given: Mapping[str, Any], say: Say) -> ReadOptions | None:
    """Return how to read a corpus: as `given` says, otherwise as the model's run read its own.

    model: its folder. given: values of settings in READING. Returns None for a folder that is
    prepared already, if nothing was given.
    """
    of_run: dict[str, Any] = {}
    if (model / "run.json").is_file() and not is_prepared(Path(corpus)):
        settings = read_record(model)["config"]
        usual = asdict(ReadOptions())
        of_run = {
            name: settings[name]
            for name in READING
            if name not in given and settings.get(name, usual[name]) != usual[name]
        }
    for name, value in of_run.items():
        say(f"reading {corpus} with {name} {value!r}, as the model's run did")
    return ReadOptions(**of_run, **given) if of_run or given else None
