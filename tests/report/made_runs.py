"""The runs that conftest.py makes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Made:
    """A folder with a corpus, a cache and the runs 'bpe' (of 40 steps) and 'char' (of 4)."""

    folder: Path

    @property
    def corpus(self) -> Path:
        return self.folder / "nursery.txt"
