"""Documents as blocks, and where they are: for messages and logs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Literal, NamedTuple

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
