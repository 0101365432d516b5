"""Answer a question by quotes: sentences of the best chunks, verbatim, with their places.

Where the index has nothing near enough, there is no answer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gptfast.rag.chunks import sentences
from gptfast.rag.passages import Chunk
from gptfast.rag.refusal import Nearness, nearness
from gptfast.rag.search import Hit, Searcher
from gptfast.rag.store import Index

N_CHUNKS = 5
"""Chunks from whose sentences the quotes are chosen."""
_NO_ANSWER = re.compile(r"^#{1,6}[ \t]|\?[\"'”’»)\]*_]*$|(?:\.[ \t]*){5}")
"""A heading, a question, or a line of a table of contents, whose dots lead to a page number. They
are quoted only where there is nothing else."""


@dataclass(frozen=True)
class Quote:
    """A passage of a document, verbatim, and where it is."""

    file: str
    page: int | None
    """Page of a PDF, from 1; None for other files."""
    page_label: str | None
    """The number that is printed on the page."""
    line_start: int
    """First line of the page or file, from 1."""
    line_end: int
    """Last line, inclusive."""
    char_start: int
    """`text` is `index.text_of(file, page)[char_start:char_end]`."""
    char_end: int
    text: str
    score: float
    """Of its best sentence: the sum of the scores of its chunk and of the sentence itself."""


@dataclass(frozen=True)
class Answer:
    """What an index holds about a question."""

    answered: bool
    quotes: tuple[Quote, ...]
    """The best first; none if the question is not answered."""
    near: Nearness
    """How near the documents come to the question, and what would be near enough."""
    nearest: Chunk | None
    """The best chunk, whether or not it is near enough; None in an index without chunks."""

    def as_json(self) -> dict[str, Any]:
        """Return what `gptfast rag ask --json` prints."""
        names = ("file", "page", "line_start", "line_end", "text", "score")
        quotes = [{name: getattr(quote, name) for name in names} for quote in self.quotes]
        return {"answered": self.answered, "quotes": quotes}


def answer(searcher: Searcher, question: str, n_quotes: int = 3) -> Answer:
    """Return at most n_quotes quotes that answer a question, or none.

    There are none if the documents have nothing near enough (`Nearness.is_far`). Chosen sentences
    that follow one another become one quote.

    Raises RuntimeError if a quote is not verbatim, which is a bug.
    """
    hits = searcher.search(question)
    near = nearness(searcher, question, hits)
    found = Answer(False, (), near, hits[0].chunk if hits else None)
    if near.is_far:
        return found
    quotes = _quotes(searcher, question, hits[:N_CHUNKS], n_quotes)
    for quote in quotes:
        check_verbatim(searcher.index, quote)
    return replace(found, answered=True, quotes=tuple(quotes))


def check_verbatim(index: Index, quote: Quote) -> None:
    """Raise RuntimeError unless the index has a quote's text at its place."""
    text = index.text_of(quote.file, quote.page)
    found = text[quote.char_start : quote.char_end]
    lines = (text.count("\n", 0, quote.char_start) + 1, text.count("\n", 0, quote.char_end) + 1)
    if found != quote.text or lines != (quote.line_start, quote.line_end):
        raise RuntimeError(
            f"a quote of {reference(quote)} is not what the index has there: please report this"
        )


def reference(place: Quote | Chunk) -> str:
    """Return where a passage is, such as "manual.pdf, p. 13 (printed 9), lines 4-6"."""
    parts = [place.file]
    if place.page is not None:
        is_other = place.page_label is not None and place.page_label != str(place.page)
        parts.append(f"p. {place.page}" + (f" (printed {place.page_label})" if is_other else ""))
    if place.line_start == place.line_end:
        parts.append(f"line {place.line_start}")
    else:
        parts.append(f"lines {place.line_start}-{place.line_end}")
    return ", ".join(parts)


@dataclass(frozen=True)
class _Sentence:
    hit: Hit
    number: int
    """Of the sentence within its chunk."""
    begin: int
    """Half-open span in the chunk's text."""
    end: int

    @property
    def chunk(self) -> Chunk:
        return self.hit.chunk

    @property
    def text(self) -> str:
        return self.chunk.text[self.begin : self.end]


def _quotes(searcher: Searcher, question: str, hits: Sequence[Hit], n_quotes: int) -> list[Quote]:
    found = [
        _Sentence(hit, number, begin, end)
        for hit in hits
        for number, (begin, end) in enumerate(sentences(hit.chunk.text))
    ]
    found = [s for s in found if not _NO_ANSWER.search(s.text)] or found
    own = searcher.scores_of(question, [sentence.text for sentence in found])
    scores = [sentence.hit.score + score for sentence, score in zip(found, own, strict=True)]
    ranked = sorted(zip(scores, found, strict=True), key=lambda pair: -pair[0])[:n_quotes]
    quotes = [_quote(run) for run in _runs(ranked)]
    return sorted(quotes, key=lambda quote: -quote.score)


_Scored = tuple[float, _Sentence]


def _runs(ranked: Sequence[_Scored]) -> Iterator[list[_Scored]]:
    """Yield the sentences, those together that follow one another in a chunk."""
    in_order = sorted(ranked, key=lambda pair: (pair[1].chunk.id, pair[1].number))
    run: list[_Scored] = []
    for pair in in_order:
        sentence = pair[1]
        if run and (run[-1][1].chunk.id, run[-1][1].number + 1) != (
            sentence.chunk.id,
            sentence.number,
        ):
            yield run
            run = []
        run.append(pair)
    if run:
        yield run


def _quote(run: Sequence[_Scored]) -> Quote:
    first, last, chunk = run[0][1], run[-1][1], run[0][1].chunk
    text = chunk.text[first.begin : last.end]
    line_start = chunk.line_start + chunk.text.count("\n", 0, first.begin)
    return Quote(
        file=chunk.file,
        page=chunk.page,
        page_label=chunk.page_label,
        line_start=line_start,
        line_end=line_start + text.count("\n"),
        char_start=chunk.char_start + first.begin,
        char_end=chunk.char_start + last.end,
        text=text,
        score=round(max(score for score, _ in run), 4),
    )
