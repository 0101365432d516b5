"""What gptfast writes itself, which is no text to read where it lies among the sources."""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from pathlib import Path

from gptfast.data.documents.notes import say_once

_HEAD_BYTES = 4096
# How data.json and plan.json of a prepared folder begin.
_PREPARED = re.compile(rb'\{\s*"(report":\s*\{\s*"corpus"|format":\s*\d+,\s*"source")')
_OF_PREPARED = {"data.json", "plan.json", "train", "val", "work"}
# Of a model, a run or a tokenizer.
_OF_MODEL = {"config.json", "generation_config.json", "metrics.jsonl", "run.json", "training"}
_OF_TOKENIZER = {"special_tokens_map.json", "tokenizer.json", "tokenizer_config.json"}
_LOG = "skipped.jsonl"


class Own:
    """Finds what gptfast wrote in folders, to leave it out of what is read."""

    def __init__(self) -> None:
        self.found: dict[Path, None] = {}
        """The files and folders that it has found."""
        self._names: dict[Path, set[str]] = {}

    def holds(self, path: Path, n_outer: int) -> bool:
        """Return whether a path is one of them, or lies in one; its first parts are not looked at.

        n_outer: how many parts.
        """
        for n in range(n_outer, len(path.parts)):
            folder, name = Path(*path.parts[:n]), path.parts[n]
            if folder not in self._names:
                try:
                    self._names[folder] = own_names(folder, os.listdir(folder))
                except OSError:  # a folder whose files can be read, but not listed
                    self._names[folder] = set()
            if name in self._names[folder]:
                self.found[folder / name] = None
                return True
        return False

    def sentence(self) -> str | None:
        """Return what was found, or None for nothing."""
        shown = ", ".join(map(str, list(self.found)[:3])) + (", ..." if len(self.found) > 3 else "")
        return f"what gptfast wrote itself ({shown})" if self.found else None

    def say(self, where: str) -> None:
        """Say what was left out of a folder or a glob, if there is anything."""
        if sentence := self.sentence():
            note = f"left out of {where}: {sentence}; a file that is named itself is read"
            say_once(note, ("own", where))


def own_names(folder: Path, names: Collection[str]) -> set[str]:
    """Return which of the files and folders in `folder` gptfast wrote as a result.

    names: all of its files and folders. A prepared folder is known by how its data.json or
    plan.json begins, that of a model or a run by its tokenizer, a log by its name.
    """
    there = set(names)
    own = {name for name in names if name.endswith(f".{_LOG}")}
    if any(_is_ours(folder / name) for name in ("data.json", "plan.json") if name in there):
        own |= there & {*_OF_PREPARED, _LOG}
    if {"tokenizer.json", "tokenizer_config.json"} <= there:
        own |= there & _OF_TOKENIZER
        if "config.json" in there or "run.json" in there:
            own |= there & _OF_MODEL
        if {"train.bin", "val.bin"} <= there:  # in the cache folder
            own |= there & {"report.json"}
    return own


def _is_ours(file: Path) -> bool:
    try:
        with file.open("rb") as opened:
            return _PREPARED.match(opened.read(_HEAD_BYTES)) is not None
    except OSError:
        return False
