"""Whether the documents have something about a question, so that it is answered at all."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from gptfast.rag.search import STOP_WORDS, Hit, Searcher

LEAST_COVERAGE = 0.33
"""Share of the words of a question that one chunk must have; see `coverage`."""
LEAST_WITH_COSINE = 0.75
"""The same and the highest cosine of MiniLM, added."""


@dataclass(frozen=True)
class Nearness:
    """How near the documents come to a question."""

    value: float
    """Their `coverage`; with MiniLM, it and the highest cosine of a chunk, added."""
    least: float
    """Below which a question is refused."""

    @property
    def is_far(self) -> bool:
        """Whether a question should be refused."""
        return self.value < self.least


def nearness(searcher: Searcher, question: str, hits: Sequence[Hit]) -> Nearness:
    """Return how near the best chunks come to a question.

    Words and the cosine of MiniLM say more together than each alone. The cosines of other vectors
    say too little to count.
    """
    covered = coverage(searcher, question, hits)
    if not searcher.has_minilm:
        return Nearness(covered, LEAST_COVERAGE)
    cosines = [hit.cosine for hit in hits if hit.cosine is not None]
    return Nearness(covered + max(cosines, default=0.0), LEAST_WITH_COSINE)


def coverage(searcher: Searcher, question: str, hits: Sequence[Hit]) -> float:
    """Return how much of a question the chunk has that has most of it, from 0 to 1.

    Each word, stemmed, counts by its inverse document frequency of BM25, so that rare words count
    much, and those that are nowhere in the index most. `STOP_WORDS` don't count, unless there are
    no others.
    """
    every = dict.fromkeys(re.findall(r"\w+", question.lower()))
    words = [word for word in every if word not in STOP_WORDS] or every
    n_chunks, all_of_it = len(searcher.chunks), 0.0
    had = dict.fromkeys((hit.chunk.id for hit in hits), 0.0)
    for word in words:
        rows = searcher.index.connection.execute(
            "SELECT rowid FROM words WHERE words MATCH ?", (f'"{word}"',)
        ).fetchall()
        idf = math.log(1 + (n_chunks - len(rows) + 0.5) / (len(rows) + 0.5))
        all_of_it += idf
        for chunk in had.keys() & {row for (row,) in rows}:
            had[chunk] += idf
    return max(had.values(), default=0.0) / all_of_it if all_of_it else 0.0
