"""Measure retrievers by questions whose answers are known.

Q questions.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from gptfast.errors import UserError
from gptfast.rag.refusal import nearness
from gptfast.rag.search import Searcher
from gptfast.rag.store import Index

N_RESAMPLES = 2000
"""Samples of the bootstrap."""

Unit: TypeAlias = tuple[str, int | None, int | None]


@dataclass(frozen=True)
class Relevant:
    """A place that answers a question."""

    file: str
    pages: tuple[int, ...] = ()
    """Any of these pages of a PDF; empty for any place in the file."""
    quote: str | None = None
    """Text that the passage holds, whatever its white space."""
    grade: float = 1.0
    """How much it is worth, for nDCG."""


@dataclass(frozen=True)
class Question:
    """A question, and what answers it: nothing if it is foreign to the documents."""

    text: str
    relevant: tuple[Relevant, ...]
    where: str
    """The line that it is from, for messages."""


@dataclass(frozen=True)
class Interval:
    """A mean over questions, and its 95% bootstrap interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Result:
    """What a retriever reaches."""

    retriever: str
    hit_at_1: Interval
    """Share of the questions with a relevant place first."""
    hit_at_5: Interval
    recall_at_10: Interval
    """Share of the relevant places among the first 10."""
    mrr: Interval
    """Mean of 1 / rank of the first relevant place."""
    ndcg_at_10: Interval
    """Discounted cumulative gain by that of the best order (Järvelin and Kekäläinen, 2002)."""
    answered: Interval
    """Share of the own questions that are not refused (`refusal.Nearness`)."""
    foreign_answered: Interval | None
    """Share of the foreign questions that are not refused; None without foreign ones."""


def read_questions(path: Path) -> list[Question]:
    """Read questions from JSON lines. Raises UserError, which names the line, for a wrong one."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"can't read {path} ({error}): expected questions as JSON lines") from None
    questions = [
        _question(f"{path}, line {number}", line)
        for number, line in enumerate(lines, 1)
        if line.strip()
    ]
    if not questions:
        raise UserError(f"{path} has no questions: expected a line of JSON for each")
    return questions


def _question(where: str, line: str) -> Question:
    form = '{"question": "...", "relevant": [{"file": "...", "quote": "..."}, ...]}'
    try:
        record = json.loads(line)
        relevant = tuple(_relevant(**place) for place in record["relevant"])
        text = record["question"]
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{where}: {error}: expected {form}") from None
    if not isinstance(text, str) or not text.strip():
        raise UserError(f"{where}: the question is empty: expected {form}")
    return Question(text, relevant, where)


def _relevant(
    file: str,
    page: int | list[int] | None = None,
    quote: str | None = None,
    grade: float = 1.0,
) -> Relevant:
    pages = () if page is None else tuple(page) if isinstance(page, list) else (page,)
    if not isinstance(file, str):
        raise ValueError(f"the file is {file!r}, which is no text")
    if page is not None and not (pages and all(type(number) is int for number in pages)):
        raise ValueError(f"the page is {page!r}, which is no number or list of numbers")
    if quote is not None and not (isinstance(quote, str) and quote.strip()):
        raise ValueError(f"the quote is {quote!r}, which is no text")
    if not (isinstance(grade, (int, float)) and 0 < grade < float("inf")):
        raise ValueError(f"the grade is {grade!r}, and must be a number above 0")
    return Relevant(file, pages, quote, grade)


def rank_metrics(ranked: Sequence[Sequence[int]], grades: Sequence[float]) -> dict[str, float]:
    """Return the metrics of one question.

    ranked: for each result in order, which relevant places it holds. grades: of the places. A place
    counts once, at its first result. A result that holds several counts as the best of them.
    """
    found: set[int] = set()
    first: int | None = None
    dcg = recall = 0.0
    for rank, places in enumerate(ranked, 1):
        new = [place for place in places if place not in found]
        found.update(new)
        if new and first is None:
            first = rank
        if new and rank <= 10:
            dcg += max(grades[place] for place in new) / np.log2(rank + 1)
        if rank == 10:
            recall = len(found) / len(grades)
    if len(ranked) < 10:
        recall = len(found) / len(grades)
    best = sum(
        grade / np.log2(rank + 1) for rank, grade in enumerate(sorted(grades, reverse=True)[:10], 1)
    )
    return {
        "hit_at_1": float(first == 1),
        "hit_at_5": float(first is not None and first <= 5),
        "recall_at_10": recall,
        "mrr": 0.0 if first is None else 1 / first,
        "ndcg_at_10": float(dcg / best),
    }


def bootstrap(values: npt.ArrayLike) -> Interval:
    """Return the mean of values (Q,) and its 95% interval, over questions drawn with replacement.

    The percentile bootstrap (Efron, 1979), with the same draws at every call.
    """
    values_Q = np.asarray(values, np.float64)
    draws = np.random.default_rng(0).integers(len(values_Q), size=(N_RESAMPLES, len(values_Q)))
    low, high = np.quantile(values_Q[draws].mean(1), (0.025, 0.975))
    return Interval(float(values_Q.mean()), float(low), float(high))


def answered(searcher: Searcher, questions: Sequence[Question]) -> Interval:
    """Return the share of questions that are not refused."""
    texts = [question.text for question in questions]
    near = [nearness(searcher, text, searcher.search(text)) for text in texts]
    return bootstrap([not each.is_far for each in near])


@dataclass(frozen=True)
class _Places:
    """The chunks (row numbers) of each relevant place of a question, and what is ranked."""

    chunks: tuple[frozenset[int], ...]
    units: tuple[Unit, ...]
    """Of each chunk: the file, page or passage that is one result."""


class Judge:
    """Judges retrievers on the questions of one index."""

    def __init__(self, index: Index, questions: Sequence[Question]) -> None:
        """Find the relevant places. Raises UserError if the index does not have one of them."""
        self._chunks = index.chunks()
        sha256 = index.files()
        shown = {sha256[chunk.file]: chunk.file for chunk in self._chunks}
        self._file = {path: shown.get(digest) for path, digest in sha256.items()}
        self._index = index
        self.own = [question for question in questions if question.relevant]
        self.foreign = [question for question in questions if not question.relevant]
        self._places = [self._find(question) for question in self.own]

    def judge(self, searcher: Searcher) -> Result:
        """Search all questions. Raises UserError if none has a relevant place."""
        if not self.own:
            raise UserError("no question has a relevant place: expected some that can be answered")
        metrics = []
        for question, places in zip(self.own, self._places, strict=True):
            scores, _ = searcher.scores(question.text)
            ranked = _ranked(np.argsort(-scores, kind="stable"), places)
            grades = [place.grade for place in question.relevant]
            metrics.append(rank_metrics(list(ranked), grades))
        return Result(
            searcher.retriever,
            **{name: bootstrap([each[name] for each in metrics]) for name in metrics[0]},
            answered=answered(searcher, self.own),
            foreign_answered=answered(searcher, self.foreign) if self.foreign else None,
        )

    def _find(self, question: Question) -> _Places:
        by_quote = any(place.quote is not None for place in question.relevant)
        by_page = any(place.pages for place in question.relevant)
        return _Places(
            tuple(frozenset(self._rows(place, question.where)) for place in question.relevant),
            tuple(
                (chunk.file, chunk.page if by_page or by_quote else None, chunk.id * by_quote)
                for chunk in self._chunks
            ),
        )

    def _rows(self, place: Relevant, where: str) -> Iterator[int]:
        file = self._file.get(place.file)
        rows = [row for row, chunk in enumerate(self._chunks) if chunk.file == file]
        if place.pages:
            rows = [row for row in rows if self._chunks[row].page in place.pages]
        if place.quote is not None:
            rows = list(self._holding(rows, place.quote))
        if not rows:
            what = f"the text {place.quote!r}" if place.quote else f"pages {place.pages}"
            in_file = "" if file is None else f" with {what}" if place.quote or place.pages else ""
            raise UserError(f"{where}: the index has no {place.file}{in_file}: expected a place")
        yield from rows

    def _holding(self, rows: Sequence[int], quote: str) -> Iterator[int]:
        """Yield the chunks that hold a part of what is quoted."""
        pattern = r"\s+".join(map(re.escape, quote.split()))
        found: dict[int | None, list[re.Match[str]]] = {}
        for row in rows:
            chunk = self._chunks[row]
            if chunk.page not in found:
                text = self._index.text_of(chunk.file, chunk.page)
                found[chunk.page] = list(re.finditer(pattern, text))
            if any(
                match.start() < chunk.char_end and match.end() > chunk.char_start
                for match in found[chunk.page]
            ):
                yield row


def _ranked(order: npt.NDArray[Any], places: _Places) -> Iterator[list[int]]:
    """Yield which relevant places each result holds, from the best; each unit is one result."""
    seen: set[Unit] = set()
    for row in order:
        if (unit := places.units[row]) not in seen:
            seen.add(unit)
            yield [n for n, rows in enumerate(places.chunks) if int(row) in rows]
