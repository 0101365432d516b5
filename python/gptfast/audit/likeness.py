"""How much of a text was in the text that a model learned from, and how well texts compress."""

from __future__ import annotations

import lzma
import re
import zlib
from collections import defaultdict
from collections.abc import Sequence

WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")
TAIL_BYTES = 2**19
"""Bytes at the end of the train text that `bits_per_byte_given` compresses before a text."""
_SEED = 8


def compression_ratio(text: str) -> float:
    """Return bytes of UTF-8 over their number when zlib has compressed them, at its level 9.

    "Standardizing the Measurement of Text Diversity" (Shaib et al., 2024): more means more
    repetition. Raises ZeroDivisionError for no text.
    """
    data = text.encode()
    return len(data) / len(zlib.compress(data, 9))


class GivenTrain:
    """Measures a text by how much shorter xz makes it after the end of the train text."""

    def __init__(self, train: str) -> None:
        self._tail = train.encode()[-TAIL_BYTES:]
        self._size = len(lzma.compress(self._tail))

    def bits_per_byte(self, text: str) -> float:
        """Return 8 (xz(tail + text) - xz(tail)) / bytes of the text.

        Raises ZeroDivisionError for no text.
        """
        data = text.encode()
        return 8 * (len(lzma.compress(self._tail + data)) - self._size) / len(data)


def words_of(text: str) -> list[str]:
    """Return the words: letters, and apostrophes between them."""
    return WORD.findall(text)


def known_words(text: str, train: set[str]) -> float:
    """Return the share of a text's words that are in `train`; 1 if it has none.

    Its first and last word do not count: they may be cut.
    """
    words = words_of(text)[1:-1]
    return sum(word in train for word in words) / len(words) if words else 1.0


def longest_copies(texts: Sequence[str], train: str) -> list[int]:
    """Return for each text the length in characters of its longest span that is in `train`."""
    places: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)
    for which, text in enumerate(texts):
        for start in range(len(text) - _SEED + 1):
            places[text[start : start + _SEED]].append((which, start))
    longest = [0] * len(texts)
    for at in range(len(train) - _SEED + 1):
        for which, start in places.get(train[at : at + _SEED], ()):
            text = texts[which]
            if start and at and text[start - 1] == train[at - 1]:
                continue  # part of a longer span, which was measured from its beginning
            end, there = start + _SEED, at + _SEED
            while end < len(text) and there < len(train) and text[end] == train[there]:
                end, there = end + 1, there + 1
            longest[which] = max(longest[which], end - start)
    return [n or _longest_short_copy(t, train) for n, t in zip(longest, texts, strict=True)]


def _longest_short_copy(text: str, train: str) -> int:
    """Do the same for a text of which no span of `_SEED` characters is in `train`."""
    lengths = range(min(_SEED - 1, len(text)), 0, -1)
    spans = ((n, text[i : i + n]) for n in lengths for i in range(len(text) - n + 1))
    return next((n for n, span in spans if span in train), 0)
