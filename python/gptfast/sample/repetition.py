"""How much texts repeat themselves and one another, counted in n-grams of tokens."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from itertools import chain

import numpy as np


def distinct(texts: Sequence[Sequence[int]], n: int) -> float:
    """Return distinct-n: the number of different n-grams in the texts over that of all tokens.

    "A Diversity-Promoting Objective Function for Neural Conversation Models" (Li et al., 2016),
    section 5.3. No n-gram crosses from one text into the next. The longer the texts, the less.
    Raises ZeroDivisionError if there is no token.
    """
    different = set().union(*(_grams(text, n) for text in texts))
    return len(different) / sum(map(len, texts))


def seq_rep(text: Sequence[int], n: int) -> float:
    """Return seq-rep-n: the share of a text's n-grams that repeat another (Welleck, eq. 9).

    0 for a text without an n-gram.
    """
    grams = _grams(text, n)
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


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


def self_bleu(texts: Sequence[Sequence[int]]) -> float:
    """Return self-BLEU, from 0 to 1: the mean BLEU-4 of each text with the others as references.

    "Texygen" (Zhu et al., 2018). 1 if all texts are the same.
    """
    return sum(bleu(text, [other for other in texts if other is not text]) for text in texts) / len(
        texts
    )


def bleu(text: Sequence[int], references: Sequence[Sequence[int]]) -> float:
    """Return BLEU-4 of a text, from 0 to 1 ("BLEU", Papineni et al., 2002).

    Where tokens agree but longer n-grams don't, a tenth of one is counted, as in Texygen: without
    that, the geometric mean would be 0. A text of fewer than 4 tokens has no BLEU-4; it gets 0.
    """
    if len(text) < 4 or set(text).isdisjoint(chain(*references)):
        return 0.0
    log_precision = 0.0
    for n in range(1, 5):
        own = Counter(_grams(text, n))
        most: Counter[tuple[int, ...]] = Counter()  # in any one reference
        for reference in references:
            most |= Counter(_grams(reference, n))
        log_precision += math.log(max((own & most).total(), 0.1) / own.total()) / 4
    closest = min((len(r) for r in references), key=lambda n: (abs(n - len(text)), n))
    return math.exp(log_precision + min(0.0, 1 - closest / len(text)))


def _grams(text: Sequence[int], n: int) -> list[tuple[int, ...]]:
    return [tuple(text[i : i + n]) for i in range(len(text) - n + 1)]
