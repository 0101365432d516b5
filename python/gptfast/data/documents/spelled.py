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
        self._unusual = unusual

    def count(self, data: bytes, counter: Counter[str]) -> None:
        """Add the special tokens in `data`, a block of a document, to the counter."""
        # A single rare byte is searched for first, because that is many times as fast.
        is_usual = b"|" in data and b"<|" in data
        if is_usual or any(name in data for name in self._unusual):
            counter.update(found.decode() for found in self._pattern.findall(data))
