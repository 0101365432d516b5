"""Divide text into chunks: passages of whole paragraphs, or of whole sentences of long ones."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, TypeAlias

from gptfast.rag.passages import Span

MAX_CHARS = 900
"""Longest chunk in characters, unless a single sentence is longer."""

RECORDS_END = "\n\n\n"
"""Separates records (rows, lines of JSON) in a text of this layout."""

Layout: TypeAlias = Literal["plain", "markdown", "records"]

# A sentence ends at . ! ? … and closing quotes before white space, if what follows may begin one;
# or at a full stop of Chinese and Japanese.
_END = re.compile(r"[.!?…]+[\"'”’»)\]*_`]*(?=\s+[\"'“‘«(\[*_`]*[^\Wa-z_])|[。！？]+[」』”’）]*")
# Words before a full stop that rarely ends a sentence. A single letter is an initial.
_ABBREVIATIONS = re.compile(
    r"(?:\b(?:e\.g|i\.e|cf|vs|mr|mrs|ms|dr|prof|st|no|nos|fig|figs|eq|eqs|sec|ch|al|etc|inc|ltd|jr|"
    r"sr|approx|pp?|vol|eds?)|(?<!\w)[A-Za-z])\.$",
    re.IGNORECASE,
)
# A line that begins an item of a list, a row of a table, or a line of indented code.
_ITEM = re.compile(r"\n(?=[ \t]*(?:[-*+•–]|\d{1,3}[.)])[ \t]|[ \t]*\||(?: {4}|\t))")
_HEADING = re.compile(r"(#{1,6})[ \t]+(.*?)[ \t#]*$")
_FENCE = re.compile(r"[ \t]{0,3}(```+|~~~+)")
_LINE = re.compile(r"[^\n]+\n?|\n")
_NEWLINE = re.compile("\n")


@dataclass(frozen=True)
class _Block:
    """A paragraph, a heading or a fenced piece of code."""

    start: int
    end: int
    level: int = 0
    """Of a heading, from 1; 0 for others."""
    title: str = ""
    is_code: bool = False


def sentences(text: str) -> list[tuple[int, int]]:
    """Return (start, end) of each sentence, item of a list, row of a table or line of code."""
    found = []
    for block in _blocks(text, 0, len(text), markdown=True):
        found += _sentences(text, block)
    return found


def chunk(text: str, layout: Layout = "plain") -> tuple[tuple[Span, ...], int]:
    """Return the places of the chunks of a text in order, and the number of too long sentences.

    A chunk ends where a paragraph does, and before a heading (layout "markdown") or another record
    (layout "records"). Only a paragraph longer than MAX_CHARS is divided, between two sentences. A
    sentence longer than that is a separate chunk. White space at both ends of a chunk is left
    out. Chunks do not overlap.
    """
    n_long = 0
    spans: list[tuple[int, int, str]] = []
    for first, last in _records(text, layout):
        headings: list[tuple[int, str]] = []
        start = end = first  # of the chunk that is being filled
        above, only_headings = "", True
        for block in _blocks(text, first, last, layout == "markdown"):
            while block.level and headings and headings[-1][0] >= block.level:
                headings.pop()
            units = [(block.start, block.end)]
            if block.end - block.start > MAX_CHARS:
                units = _sentences(text, block)
            for unit_start, unit_end in units:
                n_long += unit_end - unit_start > MAX_CHARS
                begins = block.level > 0 and not only_headings
                if end > start and (begins or unit_end - start > MAX_CHARS):
                    spans.append((start, end, above))
                    start = end
                if end == start:
                    start, only_headings = unit_start, True
                    above = " > ".join(title for _, title in headings)
                end = unit_end
                only_headings = only_headings and block.level > 0
            if block.level:
                headings.append((block.level, block.title))
        if end > start:
            spans.append((start, end, above))
    return tuple(_with_lines(text, spans)), n_long


def _records(text: str, layout: Layout) -> Iterator[tuple[int, int]]:
    if layout != "records":
        yield 0, len(text)
        return
    start = 0
    while (end := text.find(RECORDS_END, start)) >= 0:
        yield start, end
        start = end + len(RECORDS_END)
    yield start, len(text)


def _blocks(text: str, first: int, last: int, markdown: bool) -> Iterator[_Block]:
    """Yield the blocks of a stretch of text, without the white space around them."""
    start, fence = None, ""
    for line in _LINE.finditer(text, first, last):
        content = line[0].strip()
        mark = _FENCE.match(line[0]) if markdown else None
        if fence:
            if mark and mark[1].startswith(fence) and content == mark[1]:
                assert start is not None
                yield _Block(start, line.start() + len(line[0].rstrip()), is_code=True)
                start, fence = None, ""
            continue
        heading = _HEADING.match(line[0].rstrip("\n")) if markdown else None
        if (not content or heading or mark) and start is not None:
            yield _trimmed(text, start, line.start())
            start = None
        if heading:
            end = line.start() + len(line[0].rstrip())
            yield _Block(line.start(), end, len(heading[1]), heading[2])
        elif content and start is None:
            start, fence = line.start(), mark[1] if mark else ""
    if start is not None and text[start:last].strip():
        block = _trimmed(text, start, last)
        yield _Block(block.start, block.end, is_code=bool(fence))


def _trimmed(text: str, start: int, end: int) -> _Block:
    """Return a block without empty lines before it and white space after it."""
    return _Block(start, start + len(text[start:end].rstrip()))


def _sentences(text: str, block: _Block) -> list[tuple[int, int]]:
    cuts = {block.start, block.end}
    if block.is_code:
        cuts |= {match.end() for match in _NEWLINE.finditer(text, block.start, block.end)}
    elif not block.level:
        cuts |= {match.end() for match in _ITEM.finditer(text, block.start, block.end)}
        for match in _END.finditer(text, block.start, block.end):
            before = text[max(block.start, match.start() - 8) : match.start() + 1]
            if not _ABBREVIATIONS.search(before):
                cuts.add(match.end())
    places = sorted(cuts)
    found = []
    for start, end in pairwise(places):
        start += len(text[start:end]) - len(text[start:end].lstrip())
        end = start + len(text[start:end].rstrip())
        if end > start:
            found.append((start, end))
    return found


def _with_lines(text: str, spans: list[tuple[int, int, str]]) -> Iterator[Span]:
    line, at = 1, 0
    for start, end, heading in spans:
        line += text.count("\n", at, start)
        last = line + text.count("\n", start, end)
        yield Span(line, last, start, end, heading)
        line, at = last, end
