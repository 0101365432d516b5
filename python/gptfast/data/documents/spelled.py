"""Count how often documents spell special tokens."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection

_USUAL = rb"<\|[A-Za-z0-9_]{2,30}\|>"


class SpelledTokens:
    """Finds special tokens in text: those given, and whatever looks like `<|name|>`."""

    def __init__(self, names: Collection[str] = ()) -> None:
        given = [name.encode() for name in names if name]
        unusual = [name for name in given if not re.fullmatch(_USUAL, name)]
        longest_first = sorted(unusual, key=len, reverse=True)
        self._pattern = re.compile(b"|".join([*map(re.escape, longest_first), _USUAL]))
        self._beginnings = [b"<|", *unusual]

    def count(self, data: bytes, counter: Counter[str]) -> None:
        """Add the special tokens in `data`, a block of a document, to the counter."""
        if any(beginning in data for beginning in self._beginnings):
            counter.update(found.decode() for found in self._pattern.findall(data))
