"""Rank the chunks of an index for a question.

N chunks (or sentences).
"""

from __future__ import annotations

import re
import sqlite3
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gptfast.errors import UserError
from gptfast.rag.store import Chunk, Index

Scores = npt.NDArray[np.float64]

RETRIEVERS = ("fts5", "lsa", "minilm", "hybrid", "gpt")
"""hybrid: the sum of the z-scores of fts5 and minilm, or of fts5 and lsa without MiniLM."""
REFUSE_BELOW = {"minilm": 0.35, "lsa": 0.35}
"""Highest cosine of a chunk below which a question is refused, by embedder."""


@dataclass(frozen=True)
class Hit:
    """A chunk that was found."""

    chunk: Chunk
    score: float
    """What the chunks are ranked by: of hybrid, the sum of z-scores."""
    cosine: float | None
    """Cosine of the embeddings of question and chunk; None without embeddings."""


class Searcher:
    """Finds the chunks of an index that answer a question."""

    def __init__(self, index: Index, retriever: str = "hybrid") -> None:
        """Read the chunks and the vectors. Raises UserError for a retriever that can't be used."""
        if retriever not in RETRIEVERS:
            known = ", ".join(RETRIEVERS)
            raise UserError(f"the retriever is {retriever!r}: expected one of {known}")
        self.index, self.retriever = index, retriever
        self.chunks = index.chunks()
        self._row = {chunk.id: row for row, chunk in enumerate(self.chunks)}

    @property
    def refuse_below(self) -> float | None:
        """Best cosine below which a question should be refused; None without embeddings."""
        return None

    def search(self, question: str, k: int = 10) -> list[Hit]:
        """Return the k best chunks, best first."""
        scores, cosines = self.scores(question)
        best = np.argsort(-scores, kind="stable")[:k]
        return [
            Hit(self.chunks[i], float(scores[i]), None if cosines is None else float(cosines[i]))
            for i in best
        ]

    def scores(self, question: str) -> tuple[Scores, Scores | None]:
        """Return the scores of all chunks (N,), and their cosines (N,) if there are embeddings."""
        return self._keyword_scores(question), None

    def scores_of(self, question: str, texts: list[str]) -> list[float]:
        """Return the scores of other texts, such as sentences of the chunks that were found."""
        words = [f'"{word}"' for word in dict.fromkeys(re.findall(r"\w+", question.lower()))]
        memory = sqlite3.connect(":memory:")
        memory.execute("CREATE VIRTUAL TABLE words USING fts5 (text, tokenize='porter unicode61')")
        memory.executemany("INSERT INTO words (text) VALUES (?)", [(text,) for text in texts])
        scores = np.zeros(len(texts))
        for word in words:
            n_with = self._count("SELECT count(*) FROM words WHERE words MATCH ?", word)
            idf = np.log(1 + (len(self.chunks) - n_with + 0.5) / (n_with + 0.5))
            for (row,) in memory.execute("SELECT rowid FROM words WHERE words MATCH ?", (word,)):
                scores[row - 1] += idf
        memory.close()
        return [float(score) for score in scores]

    def _keyword_scores(self, question: str) -> Scores:
        scores = np.zeros(len(self.chunks))
        words = re.findall(r"\w+", question)
        if not words:
            return scores
        rows = self.index.connection.execute(
            "SELECT rowid, bm25(words) FROM words WHERE words MATCH ?",
            (" OR ".join(f'"{word}"' for word in words),),
        )
        for chunk, score in rows:
            scores[self._row[chunk]] = -score  # SQLite's is lower for better
        return scores

    def _count(self, query: str, *values: object) -> int:
        return int(self.index.connection.execute(query, values).fetchone()[0])
