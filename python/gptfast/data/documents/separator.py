"""Cut a text file into documents at a marker such as `<|endoftext|>`, in bounded memory."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from gptfast.data.documents.cut import BLOCK_BYTES, ReadInto
from gptfast.errors import UserError

_ESCAPE = re.compile(r"\\(x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|.?)", re.DOTALL)
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "f": "\f", "v": "\v", "0": "\0", "\\": "\\"}
_RARE = b"|~^\\`{}<>#@$%&=+*/[]_"  # in prose
_MARGIN_BYTES = 1 << 12  # beside a separator, where blank lines are looked for
_BLANK_LINES = re.compile(rb"(?:[ \t]*\r?\n)*")
_SPACE = b" \t\r\n"
_LONGEST = 500


def unescape(separator: str) -> str:
    r"""Return the separator with its escapes \n, \r, \t, \f, \v, \0, \\, \xNN, \uNNNN replaced.

    Raises UserError for any other escape, for a lone surrogate and for more than 500 characters.
    """

    def character(escape: re.Match[str]) -> str:
        code = escape[1]
        if code[:1] in ("x", "u") and len(code) > 1:
            return chr(int(code[1:], 16))
        if code not in _ESCAPES:
            raise UserError(
                f"document_separator is {separator!r}: expected text, in which a backslash begins "
                rf"\n, \r, \t, \f, \v, \0, \xNN or \uNNNN; write \\ for a backslash"
            )
        return _ESCAPES[code]

    text = _ESCAPE.sub(character, separator)
    if len(text) > _LONGEST or any("\ud800" <= c <= "\udfff" for c in text):
        raise UserError(
            f"document_separator is {separator[:40]!r}...: expected a short text of characters"
        )
    return text


def rare_byte(text: bytes) -> bytes:
    """Return a byte of the text that is rare in prose; the text if it has none.

    To search for it first takes no time: a single byte is found at 100 GB/s, several at 1 to 3.
    """
    return next((bytes([byte]) for byte in _RARE if byte in text), text)


class Piece(NamedTuple):
    """A document in a stream of text."""

    offset: int
    """Where it begins in the stream, in bytes."""
    data: bytes | None
    """The document; None if it is too long for the buffer."""
    readinto: ReadInto
    """Returns such a document piece by piece."""
    is_separated: bool
    """Whether there is a separator on either side."""


class Separated:
    """Iterate over the documents of a stream of UTF-8, which `separator` separates.

    The line breaks on both sides of a separator, and the blank lines there, belong to it; in a
    stream that has one, so do those at the end. Documents that are nothing but white space are left
    out, unless the stream has no separator. What has not been read of a document is skipped when
    the iteration goes on.
    """

    def __init__(self, readinto: ReadInto, separator: bytes) -> None:
        """separator: b"" if the stream is one document."""
        self.found = False
        """Whether there has been a separator."""
        self._readinto, self._separator = readinto, separator
        self._rare = rare_byte(separator)
        self._buffer = bytearray(max(BLOCK_BYTES, 2 * _MARGIN_BYTES))
        self._offset = 0  # of the buffer in the stream
        # In the buffer: handed out up to _start, to be handed out up to _ready, filled up to _end.
        self._start = self._ready = self._end = 0
        self._next: int | None = None  # where a separator that ends this document is over
        self._is_last = False  # nothing is left to be read into the buffer

    def __iter__(self) -> Iterator[Piece]:
        while True:
            self._scan()
            if self.found:
                self._drop_blank_lines()
            offset = self._offset + self._start
            if self._ends_in_buffer:
                is_separated = self.found or self._next is not None
                data = bytes(memoryview(self._buffer)[self._start : self._ready])
                if data.strip(_SPACE) or not is_separated:
                    yield Piece(offset, data, self._hand_out, is_separated)
            else:
                yield Piece(offset, None, self._hand_out, self.found)
                while not self._ends_in_buffer:
                    self._start = self._ready
                    self._scan()
            if self._next is None:
                return
            self._start, self._next, self.found = self._next, None, True

    @property
    def _ends_in_buffer(self) -> bool:
        """Whether this document, which has been scanned, ends at _ready."""
        return self._next is not None or self._is_last

    def _hand_out(self, view: memoryview) -> int:
        if self._start == self._ready and not self._ends_in_buffer:
            self._scan()
        n = min(len(view), self._ready - self._start)
        view[:n] = memoryview(self._buffer)[self._start : self._start + n]
        self._start += n
        return n

    def _scan(self) -> None:
        """Set _ready, and _next if a separator follows. Nothing of the document is ready yet."""
        at = self._find()
        if at < 0 and not self._is_last:
            self._fill()
            at = self._find()
        if at >= 0:
            self._next = at + len(self._separator)
            if self._separator[0] == 0x0A and at > self._start and self._buffer[at - 1] == 0x0D:
                at -= 1  # all of a line break of Windows belongs to the separator
            self._ready = self._before_line_breaks(at)
        elif self._is_last:
            self._ready = self._before_line_breaks(self._end) if self.found else self._end
        elif self._separator:  # of which the last bytes may be the beginning
            self._ready = self._before_line_breaks(self._end - len(self._separator) + 1)
            self._ready -= self._buffer[self._ready - 1] == 0x0D  # a line break with what follows
        else:
            self._ready = self._end

    def _find(self) -> int:
        if not self._separator:
            return -1
        if self._buffer.find(self._rare, self._start, self._end) < 0:
            return -1
        return self._buffer.find(self._separator, self._start, self._end)

    def _fill(self) -> None:
        """Read on, until the buffer is full or the stream ends. Keeps what is not handed out."""
        n = self._end - self._start
        self._buffer[:n] = self._buffer[self._start : self._end]
        self._offset += self._start
        view = memoryview(self._buffer)
        while n < len(view) and not self._is_last:
            read = self._readinto(view[n:])
            self._is_last = read == 0
            n += read
        self._start, self._end = 0, n

    def _drop_blank_lines(self) -> None:
        end = min(self._start + _MARGIN_BYTES, self._ready)
        lines = _BLANK_LINES.match(self._buffer, self._start, end)
        assert lines is not None  # as it may be empty
        self._start = lines.end()

    def _before_line_breaks(self, end: int) -> int:
        """Return where the text before `end` ends, if it is followed by line breaks there."""
        if end == self._start or self._buffer[end - 1] not in _SPACE:
            return end
        text = self._buffer[max(self._start, end - _MARGIN_BYTES) : end]
        space = text[len(text.rstrip(_SPACE)) :]
        line_break = space.find(b"\n")
        if line_break < 0:
            return end
        if space[:line_break].endswith(b"\r"):
            line_break -= 1
        return end - len(space) + line_break
