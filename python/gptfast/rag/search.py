"""Rank the chunks of an index for a question.

N chunks (or sentences), C the width of an embedding.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from gptfast.errors import UserError
from gptfast.rag.embeddings import NAME as MINILM
from gptfast.rag.embeddings import MiniLM
from gptfast.rag.lsa import Lsa
from gptfast.rag.passages import Chunk
from gptfast.rag.store import Index, Vectors

Scores = npt.NDArray[np.float64]

RETRIEVERS = ("fts5", "lsa", "minilm", "hybrid-lsa", "hybrid", "gpt", "gpt-table")
"""hybrid-lsa: the sum of the z-scores of fts5 and lsa. hybrid: that of the root of fts5 and minilm,
or hybrid-lsa if the index has no vectors of MiniLM or it can't be loaded."""

# Questions have many of these. In documents they may be rare, so that BM25 would take them for
# what the question is about.
STOP_WORDS = frozenset(
    re.findall(
        r"\w+",
        "a about am an and any are as at be been being but by can could d did do does doing don "
        "for from had has have having he her his how i if in into is it its ll m me my no not of "
        "on or our re s shall she should so some such t than that the their them then there these "
        "they this those to too us ve was we were what when where which who whom whose why will "
        "with would you your",
    )
)
"""English words that say little, which a search by words ignores."""


@dataclass(frozen=True)
class Hit:
    """A chunk that was found."""

    chunk: Chunk
    score: float
    """What the chunks are ranked by: of hybrid, the sum of z-scores."""
    cosine: float | None
    """Cosine of the embeddings of question and chunk; None without embeddings."""


@dataclass(frozen=True)
class _Dense:
    """Vectors of the chunks, and what makes vectors of other texts."""

    kind: str
    vectors_NC: Vectors
    embed: Callable[[list[str]], Vectors]


class Searcher:
    """Finds the chunks of an index that answer a question."""

    def __init__(self, index: Index, retriever: str = "hybrid", model: Path | None = None) -> None:
        """Read the chunks and the vectors of an index.

        model: the folder of the model of "gpt" (the mean of its last hidden states) and "gpt-table"
        (of its token embeddings). Raises UserError for a retriever that can't be used.
        """
        if retriever not in RETRIEVERS:
            known = ", ".join(RETRIEVERS)
            raise UserError(f"the retriever is {retriever!r}: expected one of {known}")
        self.index, self.retriever = index, retriever
        self.notes: list[str] = []
        """What to tell the user of the choice of the retriever, in lines."""
        self.chunks = index.chunks()
        self._row = {chunk.id: row for row, chunk in enumerate(self.chunks)}
        self._uses_words = retriever == "fts5" or retriever.startswith("hybrid")
        self._dense = self._open_dense(model)

    def _open_dense(self, model: Path | None) -> _Dense | None:
        if self.retriever == "fts5":
            return None
        if self.retriever.startswith("gpt"):
            return self._by_gpt(model)
        if self.retriever == "minilm":
            if MINILM not in self.index.embedders():  # before MiniLM is loaded, or even fetched
                raise self._unfinished("the vectors of MiniLM")
            return self._stored("minilm", MINILM, MiniLM().embed)
        if self.retriever == "hybrid" and MINILM in self.index.embedders():
            try:
                return self._stored("minilm", MINILM, MiniLM().embed)
            except UserError as error:
                self.notes.append(f"searching by words and LSA alone: {error}")
        elif self.retriever == "hybrid":
            self.notes.append(
                "searching by words and LSA alone: the index has no vectors of MiniLM"
            )
        lsa = Lsa.of(self.index)
        if lsa is None:
            raise self._unfinished("what LSA learns of all chunks")
        return self._stored("lsa", "lsa", lsa.embed)

    def _by_gpt(self, folder: Path | None) -> _Dense:
        if folder is None:
            raise UserError(f"{self.retriever} needs the folder of a model: name one")
        from gptfast.rag.gpt_embeddings import GPTEmbeddings

        texts = [chunk.searched for chunk in self.chunks]
        gpt = GPTEmbeddings(folder, texts, from_table=self.retriever == "gpt-table")
        return _Dense(self.retriever, gpt.embed(texts), gpt.embed)

    def _stored(self, kind: str, name: str, embed: Callable[[list[str]], Vectors]) -> _Dense:
        ids, vectors_NC = self.index.vectors(name)
        if ids != [chunk.id for chunk in self.chunks]:
            raise self._unfinished(f"vectors of {kind} for {len(self.chunks) - len(ids):,} chunks")
        return _Dense(kind, vectors_NC, embed)

    def _unfinished(self, what: str) -> UserError:
        return UserError(
            f"the index in {self.index.folder} lacks {what}: run `gptfast rag index` again"
        )

    @property
    def has_minilm(self) -> bool:
        """Whether the cosines are those of MiniLM."""
        return self._dense is not None and self._dense.kind == "minilm"

    def search(self, question: str, k: int = 10) -> list[Hit]:
        """Return the k best chunks, best first."""
        scores, cosines = self.scores(question)
        return [
            Hit(self.chunks[i], float(scores[i]), None if cosines is None else float(cosines[i]))
            for i in highest(scores, k)
        ]

    def scores(self, question: str) -> tuple[Scores, Scores | None]:
        """Return the scores of all chunks (N,), and their cosines (N,) if there are embeddings."""
        words = self._word_scores(question) if self._uses_words else None
        return self._joined(words, self._cosines(question))

    def scores_of(self, question: str, texts: Sequence[str]) -> list[float]:
        """Return the scores of other texts, such as sentences of the chunks that were found.

        Words count by how rare they are among the chunks, z-scores are those among the texts.
        """
        if not texts:
            return []
        words = self._word_scores_of(question, texts) if self._uses_words else None
        scores, _ = self._joined(words, self._cosines(question, texts))
        return [float(score) for score in scores]

    def _joined(self, words: Scores | None, cosines: Scores | None) -> tuple[Scores, Scores | None]:
        if words is None:
            assert cosines is not None
            return cosines, cosines
        if cosines is None:
            return words, None
        assert self._dense is not None
        if self._dense.kind == "minilm":
            # Few chunks share words with a question, so their z-scores are far above those of any
            # cosine. The root keeps words from outweighing MiniLM, which is better than they are.
            words = np.sqrt(words)
        return _z(words) + _z(cosines), cosines

    def _cosines(self, question: str, texts: Sequence[str] | None = None) -> Scores | None:
        if self._dense is None:
            return None
        if not self.chunks:
            return np.zeros(0 if texts is None else len(texts))
        vectors_NC = self._dense.vectors_NC if texts is None else self._dense.embed(list(texts))
        cosines: Scores = (vectors_NC @ self._dense.embed([question])[0]).astype(np.float64)
        return cosines

    def _word_scores(self, question: str) -> Scores:
        """Return BM25 of the chunks (N,), any of the words being enough; 0 without them."""
        scores = np.zeros(len(self.chunks))
        if not (words := _words(question)):
            return scores
        rows = self.index.connection.execute(
            "SELECT rowid, bm25(words) FROM words WHERE words MATCH ?", (" OR ".join(words),)
        )
        for chunk, score in rows:
            scores[self._row[chunk]] = -score  # SQLite's is lower for better
        return scores

    def _word_scores_of(self, question: str, texts: Sequence[str]) -> Scores:
        """Return BM25 (N,) of texts that hold each word once or not at all, by idf of the chunks.

        Robertson and Zaragoza, 2009, with SQLite's k1 = 1.2 and b = 0.75.
        """
        lengths = np.array([max(len(text.split()), 1) for text in texts])
        saturation = 2.2 / (1 + 1.2 * (0.25 + 0.75 * lengths / lengths.mean()))
        scores = np.zeros(len(texts))
        memory = sqlite3.connect(":memory:")
        memory.execute("CREATE VIRTUAL TABLE words USING fts5 (text, tokenize='porter unicode61')")
        memory.executemany("INSERT INTO words (text) VALUES (?)", [(text,) for text in texts])
        for word in _words(question):
            query = "SELECT rowid FROM words WHERE words MATCH ?"
            n_with = len(self.index.connection.execute(query, (word,)).fetchall())
            idf = np.log(1 + (len(self.chunks) - n_with + 0.5) / (n_with + 0.5))
            for (row,) in memory.execute(query, (word,)):
                scores[row - 1] += idf * saturation[row - 1]
        memory.close()
        return scores


def highest(scores: Scores, k: int) -> npt.NDArray[np.int64]:
    """Return the rows of the k highest scores, the highest first; of equal ones the first rows."""
    least = np.partition(scores, -k)[-k] if k < len(scores) else -np.inf
    rows = np.flatnonzero(scores >= least)
    return rows[np.argsort(-scores[rows], kind="stable")][:k]


def _words(question: str) -> list[str]:
    """Return the words of a question as phrases of FTS5, each once, without STOP_WORDS.

    If there are no others, those are kept.
    """
    words = dict.fromkeys(re.findall(r"\w+", question.lower()))
    kept = [word for word in words if word not in STOP_WORDS] or list(words)
    return [f'"{word}"' for word in kept]


def _z(scores: Scores) -> Scores:
    """Return z-scores: less the mean, by the standard deviation; zeros if all are equal."""
    if not len(scores):
        return scores
    spread = scores.std()
    return (scores - scores.mean()) / spread if spread > 1e-12 else np.zeros_like(scores)
