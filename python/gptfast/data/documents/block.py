"""Documents as blocks, and where they are: for messages and logs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gptfast.data.documents.cut import BLOCK_BYTES, ReadInto, replacing
from gptfast.data.documents.unpack import DamagedFileError, Stream


class Lines:
    """Finds the lines of a text file. Counting them all along would slow down every good file."""

    def __init__(
        self, reopen: Callable[[], Stream], errors: Literal["strict", "replace"] = "strict"
    ) -> None:
        """reopen: reads the text from its beginning.

        errors: "replace" if offsets count bytes that are not UTF-8 as U+FFFD.
        """
        self.has_nul = False
        """Whether a NUL has been found in the text, which is said once."""
        self._reopen, self._errors = reopen, errors
        self._lock = threading.Lock()
        self._readinto: ReadInto | None = None
        self._offset = self._newlines = 0

    def at(self, offset: int | None) -> int:
        """Return the line, from 1, of the byte at `offset`; for None, the last readable one.

        Reads the file again, from where the last call ended.
        """
        with self._lock:
            if self._readinto is None or (offset is not None and offset < self._offset):
                file = self._reopen()
                replace = self._errors == "replace"
                self._readinto = replacing(file.readinto) if replace else file.readinto
                self._offset = self._newlines = 0
            buffer = bytearray(BLOCK_BYTES)
            left = (1 << 62) if offset is None else offset - self._offset
            try:
                while left and (n := self._readinto(memoryview(buffer)[:left])):
                    self._newlines += buffer.count(b"\n", 0, n)
                    self._offset += n
                    left -= n
            except DamagedFileError:
                pass
            return self._newlines + 1


class Place(NamedTuple):
    """Where a document, or a block of one, begins."""

    file: str
    unit: Literal["line", "row", "value"]
    number: int
    """Of the line, row or value, from 1; with `lines`, the offset in bytes instead."""
    lines: Lines | None = None

    def __str__(self) -> str:
        """Return "FILE, line 3"."""
        return f"{self.file}, {self.unit} {self.counted()}"

    def counted(self) -> int:
        """Return the number of the line, row or value."""
        return self.number if self.lines is None else self.lines.at(self.number)


class Block(NamedTuple):
    """A document, or the next part of one that was cut."""

    data: bytes
    """UTF-8."""
    ends_document: bool
    place: Place | None = None
    """Where it begins; None if it came from no file."""


class Documents(NamedTuple):
    """Many whole documents at once, of lines of one file. None of them is empty."""

    data: bytes
    """Their UTF-8, with a byte after each, 0xFF, that no UTF-8 has."""
    starts: NDArray[np.int64]
    """(documents,), where each begins in `data`."""
    ends: NDArray[np.int64]
    """(documents,), where each ends."""
    file: str
    lines: NDArray[np.int64]
    """(documents,), the line of each, from 1."""

    @property
    def sizes(self) -> NDArray[np.int64]:
        """How many bytes each has, (documents,)."""
        return self.ends - self.starts

    def only(self, which: NDArray[np.bool_]) -> Documents:
        """Return the documents of which `which`, (documents,), is true, with all data."""
        starts, ends, lines = self.starts[which], self.ends[which], self.lines[which]
        return Documents(self.data, starts, ends, self.file, lines)

    def between(self, first: int, end: int) -> Documents:
        """Return the documents from `first` to before `end`, at least one, with their data."""
        if first == 0 and end == len(self.lines):
            return self
        starts, ends, lines = self.starts[first:end], self.ends[first:end], self.lines[first:end]
        at = starts[0]
        return Documents(self.data[at : ends[-1] + 1], starts - at, ends - at, self.file, lines)

    def blocks(self) -> Iterator[Block]:
        """Yield each document as a block."""
        ranges = zip(self.starts.tolist(), self.ends.tolist(), self.lines.tolist(), strict=True)
        for start, end, line in ranges:
            yield Block(self.data[start:end], True, Place(self.file, "line", line))


def one_by_one(items: Iterable[Block | Documents]) -> Iterator[Block]:
    """Yield each document as a block, or as several."""
    for item in items:
        if isinstance(item, Documents):
            yield from item.blocks()
        else:
            yield item
