"""Count how often documents spell special tokens."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection

from gptfast.tokenizer.roles import BOUNDARIES
from gptfast.tokenizer.rust import Names

_USUAL = rb"<\|[A-Za-z0-9_]{2,30}\|>"

_MAX_NAMES = 1000  # counted at a time


class SpelledTokens:
    """Finds special tokens in text.

    Those given, whatever looks like `<|name|>`, and the well-known names of tokens that begin or
    end a document or a turn, such as `</s>`, which a corpus for another tokenizer may spell.
    """

    def __init__(self, names: Collection[str] = ()) -> None:
        known = dict.fromkeys((*names, *BOUNDARIES, "[CLS]", "[SEP]"))
        given = [name.encode() for name in known if name]
        unusual = [name for name in given if not re.fullmatch(_USUAL, name)]
        longest_first = sorted(unusual, key=len, reverse=True)
        self._pattern = re.compile(b"|".join([*map(re.escape, longest_first), _USUAL]))
        self._beginnings = Names([b"<|", *unusual])

    def count(self, data: bytes, counter: Counter[str]) -> None:
        """Add the special tokens in `data`, a block of a document, to the counter."""
        if self._beginnings.are_in(data):
            counter.update(found.decode() for found in self._pattern.findall(data))
            if len(counter) > _MAX_NAMES:
                for name, _ in counter.most_common()[_MAX_NAMES // 2 :]:
                    del counter[name]
