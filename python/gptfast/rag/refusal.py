"""Whether the documents have something about a question, so that it is answered at all."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from gptfast.rag.search import Hit, Searcher

LEAST_COVERAGE = 0.33
"""Share of the words of a question that one chunk must have; see `coverage`."""


def is_far(searcher: Searcher, hits: Sequence[Hit], covered: float) -> bool:
    """Return whether a question should be refused.

    It should if the highest cosine is below `searcher.refuse_below`. Where the vectors are not
    those of MiniLM, cosines say little, and words decide. hits: the best chunks. covered: their
    `coverage`.
    """
    least, best = searcher.refuse_below, best_cosine(hits)
    if least is not None and best is not None:
        return best < least
    return covered < LEAST_COVERAGE


def best_cosine(hits: Sequence[Hit]) -> float | None:
    """Return the highest cosine; None without embeddings, or without hits."""
    return max((hit.cosine for hit in hits if hit.cosine is not None), default=None)


def coverage(searcher: Searcher, question: str, hits: Sequence[Hit]) -> float:
    """Return how much of a question the chunk has that has most of it, from 0 to 1.

    Each word, stemmed, counts by its inverse document frequency of BM25, so that rare words count
    much, those that are nowhere in the index most, and "the" hardly.
    """
    words = dict.fromkeys(re.findall(r"\w+", question.lower()))
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
