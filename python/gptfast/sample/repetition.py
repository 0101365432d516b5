"""How much texts repeat themselves, counted in n-grams of tokens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def distinct(texts: Sequence[Sequence[int]], n: int) -> float:
    """Return distinct-n: the number of different n-grams over that of all n-grams in the texts.

    "A Diversity-Promoting Objective Function for Neural Conversation Models" (Li et al., 2016).
    No n-gram crosses from one text into the next. 1 for texts without an n-gram.
    """
    grams = [gram for text in texts for gram in _grams(text, n)]
    return len(set(grams)) / len(grams) if grams else 1.0


def seq_rep(text: Sequence[int], n: int) -> float:
    """Return seq-rep-n: the share of a text's n-grams that repeat another (Welleck, eq. 9)."""
    return 1 - distinct([text], n)


def longest_repeat(text: Sequence[int]) -> int:
    """Return the length of the longest span that occurs twice in a text; the two may overlap."""
    ids = np.asarray(text)
    longest = 0
    # run_T[j]: the length of the equal spans that end before i and before j.
    run_T = np.zeros(len(ids) + 1, dtype=np.int64)
    for i in range(len(ids)):
        run_T[1 : i + 1] = np.where(ids[:i] == ids[i], run_T[:i] + 1, 0)
        longest = max(longest, int(run_T[: i + 1].max()))
    return longest


def _grams(text: Sequence[int], n: int) -> list[tuple[int, ...]]:
    return [tuple(text[i : i + n]) for i in range(len(text) - n + 1)]
