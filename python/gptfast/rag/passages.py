"""Pages of text, and the passages of them that are searched: chunks."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Span:
    """The place of a chunk within the text of a page."""

    line_start: int
    """First line, from 1."""
    line_end: int
    """Last line, inclusive."""
    char_start: int
    char_end: int
    heading: str = ""
    """Headings above the chunk, from the title down, separated by ' > '."""


@dataclass(frozen=True)
class Page:
    """The text of a page of a PDF, or of a whole file of another kind."""

    number: int | None
    """From 1, in a PDF; None for other files."""
    label: str | None
    """The number that is printed on the page, such as 'iv'."""
    text: str
    spans: tuple[Span, ...] = ()
    """The chunks of the text."""


@dataclass(frozen=True)
class Chunk:
    """A passage of a document, and where it is."""

    id: int
    file: str
    """Path relative to the folder that holds everything indexed."""
    page: int | None
    """Page of a PDF, from 1."""
    page_label: str | None
    """The number that is printed on the page, such as 'iv'."""
    line_start: int
    """First line of the page or file, from 1."""
    line_end: int
    """Last line, inclusive."""
    char_start: int
    """`text` is `text_of(file, page)[char_start:char_end]`."""
    char_end: int
    text: str
    heading: str = ""
    """Headings above the chunk, from the title down, separated by ' > '. Not part of `text`."""

    @property
    def searched(self) -> str:
        """The text that embedders read: the headings above the chunk, and the chunk."""
        return f"{self.heading}\n{self.text}" if self.heading else self.text
