"""Cut documents into blocks, only where the blocks encode to the ids of the whole document."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeAlias

BLOCK_BYTES = 1 << 18  # measured: larger blocks do not fit the CPU caches and take a third longer
_TAIL_BYTES = 1 << 16  # the end of a block, which is searched for a place to cut

ReadInto: TypeAlias = Callable[[memoryview], int]
"""Fill the beginning of a buffer; return the number of bytes, 0 at the end of the input."""


class TooLongError(Exception):
    """More bytes than a block may have contain no place to cut."""


class Cutter(NamedTuple):
    """Where documents may be cut, and how large blocks are."""

    safe_cut: Callable[[bytes], int]
    """Return the last position inside these bytes where any text with them may be cut, or 0."""
    block_bytes: int
    """Target size of a block. A block is larger where there is no place to cut."""
    longest: int
    """Maximum size of a block."""

    def blocks(self, readinto: ReadInto) -> Iterator[tuple[bytes, bool]]:
        """Read one document piece by piece; yield (block, ends_document). Raises TooLongError."""
        buffer, filled = bytearray(self.block_bytes), 0
        while True:
            view = memoryview(buffer)
            while filled < len(view) and (n := readinto(view[filled:])):
                filled += n
            if filled < len(view):
                yield bytes(view[:filled]), True
                return
            tail_at = max(0, filled - _TAIL_BYTES)
            cut_in_tail = self.safe_cut(bytes(view[tail_at:]))
            cut = tail_at + cut_in_tail if cut_in_tail else 0
            if cut:
                yield bytes(view[:cut]), False
            # At least half of the next buffer is new text, so the total cost is linear in the
            # length of the document, wherever the cuts are.
            filled -= cut
            size = self.block_bytes
            while size < 2 * filled:
                size *= 2
            if size > max(self.longest, self.block_bytes):
                raise TooLongError(f"can't be cut within {filled:,} bytes")
            if size != len(buffer):
                buffer = bytearray(size)
            buffer[:filled] = view[cut:]


def replacing(readinto: ReadInto) -> ReadInto:
    """Return a reader of the same text with invalid UTF-8 replaced by U+FFFD, like bytes.decode."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    chunk = memoryview(bytearray(1 << 16))
    text = b""

    def replaced(view: memoryview) -> int:
        nonlocal text
        n = -1
        while not text and n != 0:
            n = readinto(chunk)
            text = decoder.decode(chunk[:n], final=n == 0).encode()
        n = min(len(view), len(text))
        view[:n], text = text[:n], text[n:]
        return n

    return replaced
