"""A document cut into blocks, at places where the parts encode as the whole does."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeAlias

BLOCK_BYTES = 1 << 18  # measured: larger blocks leave the caches, and cost a third more
_TAIL_BYTES = 1 << 16  # where a place to cut is looked for

ReadInto: TypeAlias = Callable[[memoryview], int]
"""Fills the beginning of a buffer and says how many bytes; 0 at the end."""


def longest_uncut(memory_limit: int | None) -> int | None:
    """How many bytes that can't be cut a `memory_limit` in bytes has room for; None: any."""
    return None if memory_limit is None else memory_limit // 16


class Block(NamedTuple):
    """A document, or the next part of one."""

    data: bytes
    """UTF-8."""
    ends_document: bool


class TooLongError(Exception):
    """There is no place to cut within as many bytes as a block may have."""


class Cutter(NamedTuple):
    """How documents are cut."""

    safe_cut: Callable[[bytes], int]
    """The last place inside of these bytes at which a text may be cut that has them anywhere; 0 if
    there is none."""
    block_bytes: int
    """The size of a block, if it can be cut off."""
    longest: int
    """A block of more is refused."""

    def blocks(self, readinto: ReadInto) -> Iterator[Block]:
        """Cut one document, which is read piece by piece. Raises TooLongError."""
        buffer, filled = bytearray(self.block_bytes), 0
        while True:
            view = memoryview(buffer)
            while filled < len(view) and (n := readinto(view[filled:])):
                filled += n
            if filled < len(view):
                yield Block(bytes(view[:filled]), True)
                return
            tail_at = max(0, filled - _TAIL_BYTES)
            cut_in_tail = self.safe_cut(bytes(view[tail_at:]))
            cut = tail_at + cut_in_tail if cut_in_tail else 0
            if cut:
                yield Block(bytes(view[:cut]), False)
            # Half of the next buffer at least will be new, so wherever the cuts are, the cost is
            # linear in the length of the document.
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
    """Read the same text with U+FFFD for bytes that aren't UTF-8, as bytes.decode does it."""
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
