"""JSON lines, a document each: Rust reads what is plain, many lines at a time, json the rest."""

from __future__ import annotations

import codecs
import io
import json
from collections.abc import Iterable, Iterator
from typing import Any, Literal, NamedTuple

import numpy as np

from gptfast.data.documents.block import Documents
from gptfast.data.documents.json_records import TOO_DEEP, decoded, text_of
from gptfast.data.documents.records import CONVERT, BadRecordError, Record
from gptfast.data.documents.unpack import DamagedFileError
from gptfast.tokenizer.rust import json_texts


class JsonLines(NamedTuple):
    """How to read JSON lines."""

    field: str
    errors: Literal["strict", "replace"]
    longest: int
    """The maximum number of bytes of a line."""
    part_bytes: int
    """About how many bytes of lines become one `Documents`."""
    n_threads: int

    def read(self, stream: io.RawIOBase, file: str) -> Iterator[Record | Documents]:
        """Yield the texts, and the number of each line that has none with the reason, in order.

        Rust finds the text in a line that is JSON of UTF-8 and not nested deeply. Any other line
        goes to Python's json, which accepts more (such as NaN) and says what is wrong.
        """
        field, longest = self.field, self.longest
        if not _is_utf8(field):  # as Python spells an argument that isn't
            field, longest = "", 0  # every line is too long for Rust
        done = 0
        for lines in self._chunks(stream):
            if not isinstance(lines, bytes):
                done += 1
                yield done, lines
                continue
            text = lines if done else lines.removeprefix(codecs.BOM_UTF8)
            texts, others, n_lines = json_texts(
                text, field, self.part_bytes, longest, self.n_threads
            )
            parts = [
                Documents(data, starts, ends, file, numbers + (done + 1))
                for data, starts, ends, numbers in texts
            ]
            judged = ((done + 1 + n, self._judge(text[start:end])) for n, start, end in others)
            yield from _in_order(parts, judged)
            done += n_lines

    def _chunks(self, stream: io.RawIOBase) -> Iterator[bytes | BadRecordError | DamagedFileError]:
        """Yield complete lines, an error for each that is too long, and the error that ends it."""
        rest, is_too_long, damage, is_last = b"", False, None, False
        while damage is None and not is_last:
            parts, left = [rest], max(self.part_bytes * self.n_threads, 2 * len(rest))
            while left > 0 and not is_last:
                try:
                    parts.append(stream.read(left) or b"")
                except DamagedFileError as error:
                    damage = error
                    break
                left -= len(parts[-1])
                is_last = not parts[-1]
            chunk = b"".join(parts)
            end = len(chunk) if is_last else chunk.rfind(b"\n") + 1
            start = 0
            if is_too_long and (end or is_last):
                yield BadRecordError(f"is longer than {self.longest:,} bytes")
                start, is_too_long = (chunk.find(b"\n") + 1) or end, False
            if start < end:
                yield chunk[start:end]
            rest = chunk[end:]
            if is_too_long or len(rest) >= self.longest:
                rest, is_too_long = b"", True
        if damage is not None:
            yield damage

    def _judge(self, line: bytes) -> bytes | BadRecordError:
        """Return the text of a line that Rust has left out, or why there is none."""
        if len(line) >= self.longest:
            return BadRecordError(f"is longer than {self.longest:,} bytes")
        try:
            return text_of(_value(line, self.errors), self.field, self.errors)
        except BadRecordError as error:
            return error


def _is_utf8(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _in_order(
    parts: Iterable[Documents], others: Iterator[tuple[int, bytes | BadRecordError]]
) -> Iterator[Record | Documents]:
    """Merge documents with lines between them, by the numbers of their lines."""
    other = next(others, None)
    for part in parts:
        start, n = 0, len(part.lines)
        while other is not None and other[0] < part.lines[-1]:
            at = int(np.searchsorted(part.lines, other[0]))
            if start < at:
                yield part.between(start, at)
            yield other
            start, other = at, next(others, None)
        yield part.between(start, n)
    while other is not None:
        yield other
        other = next(others, None)


def _value(line: bytes, errors: Literal["strict", "replace"]) -> Any:
    try:
        text = line.rstrip().decode(errors=errors)
        value, end = decoded(text, len(text) - len(text.lstrip()))
    except UnicodeDecodeError as error:
        raise BadRecordError(
            f"is not UTF-8 text (byte {error.start} of the line): {CONVERT}"
        ) from None
    except json.JSONDecodeError as error:
        what = f"{error.msg}, column {error.colno}"
        raise BadRecordError(f"is broken JSON ({what}): expected an object") from None
    except RecursionError:
        raise BadRecordError(TOO_DEEP) from None
    if end != len(text):
        raise BadRecordError(f"is broken JSON (Extra data, column {end + 1}): expected an object")
    return value
