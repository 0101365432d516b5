"""The text at the beginning of files: to see that there is some, and as a sample."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gptfast.data.documents import ReadOptions, read_blocks
from gptfast.errors import UserError


def check_text(files: Sequence[Path], given: Sequence[str], options: ReadOptions) -> None:
    """Raise UserError, which names them as they were given, if there is no text in the files."""
    if not first_texts(files, 1, options):
        raise UserError(f"there is no text in {' '.join(given)}: expected some to learn from")


def first_texts(files: Sequence[Path], n: int, options: ReadOptions) -> list[str]:
    """Return the documents at the beginning of the files, cut after `n` bytes."""
    texts: list[str] = []
    # Compression on them hardly depends on where they are cut, so any place will do.
    for block in read_blocks(files, options, safe_cut=_before_last_character):
        texts.append(block.data[:n].decode(errors="ignore"))
        n -= len(block.data)
        if n <= 0:
            break
    return texts


def _before_last_character(data: bytes) -> int:
    cut = len(data) - 1
    while cut > 0 and data[cut] & 0xC0 == 0x80:
        cut -= 1
    return max(cut, 0)
