"""Documents from files of every kind that is known, as blocks."""

from __future__ import annotations

import codecs
import dataclasses
import io
import itertools
import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal

from gptfast.data.documents.cut import (
    BLOCK_BYTES,
    Block,
    Cutter,
    ReadInto,
    TooLongError,
    replacing,
)
from gptfast.data.documents.listing import Paths, find_files
from gptfast.data.documents.parquet import parquet_values
from gptfast.data.documents.unpack import DamagedFileError, UnpackedFile
from gptfast.errors import UserError
from gptfast.tokenizer.checks import check_choice, check_kind

try:
    from gptfast._rust import utf8_error
except ImportError:  # the package also runs from a plain checkout, where Rust was not built

    def utf8_error(data: bytes) -> int | None:
        """Return the position of the first byte that is not UTF-8, None if all of it is."""
        try:
            data.decode()
        except UnicodeDecodeError as error:
            return error.start
        return None


_MOST_COMPLAINTS = 20
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclasses.dataclass
class ReadReport:
    """How far reading has come."""

    documents: int = 0
    """Documents read to their end."""
    bytes_read: int = 0
    """Of the files as they are on disk."""
    files_kept: int = 0
    """Files that need not be read, since an earlier run has finished their shards."""
    bytes_kept: int = 0
    """Of those files as they are on disk."""
    skipped: int = 0
    """Lines, rows and ends of files that were left out for an error."""
    complaints: list[str] = dataclasses.field(default_factory=list)
    """What was wrong with the first 20 of them."""

    def left_out(self) -> str:
        """Return a line for the user about what was skipped."""
        first = f", first: {self.complaints[0]}" if self.complaints else ""
        return f"left out {self.skipped:,} that could not be read{first}"


def read_blocks(
    paths: Paths,
    *,
    safe_cut: Callable[[bytes], int] | None = None,
    field: str = "text",
    column: str = "text",
    errors: Literal["strict", "replace"] = "strict",
    on_error: Literal["raise", "skip"] = "raise",
    block_bytes: int = BLOCK_BYTES,
    longest: int | None = None,
    report: ReadReport | None = None,
) -> Iterator[Block]:
    """Read documents from files, folders and globs; empty ones are left out.

    A .jsonl file has a document on each line, the string under the key `field`; a .parquet file one
    in each row, in `column`; any other file is one document. Both other kinds may end in .gz or
    .zst, and a byte order mark (U+FEFF) at their beginning is left out. With `errors="replace"`,
    bytes that are no UTF-8 become U+FFFD.

    `safe_cut(data)` returns the last place inside of `data`, a part of a document, where this may
    be cut, 0 if there is none; without it, a document is one block. A block has at most
    `block_bytes` if it can be cut off; more than `longest` bytes that can't be cut, or on one line
    of JSON, are an error.

    With `on_error="skip"` what is bad is left out and counted in `report`: a line of JSON, a row,
    of other documents and of damaged files the rest. Raises UserError otherwise, with the file's
    name and line; MissingFileError if a path stands for no file.
    """
    check_choice("errors", errors, ("strict", "replace"))
    check_choice("on_error", on_error, ("raise", "skip"))
    check_kind("field", field, str, "the key of the text")
    check_kind("column", column, str, "the name of the text's column")
    cutter = Cutter(safe_cut or (lambda data: 0), block_bytes, longest or (1 << 62))
    reader = _Reader(field, column, errors, on_error, cutter, report or ReadReport())
    return reader.read(find_files(paths))


class _BadDocumentError(Exception):
    """A document that can't be used; the message says why."""


@dataclasses.dataclass(frozen=True)
class _Reader:
    """The options of `read_blocks`, and what to do with each kind of file."""

    field: str
    column: str
    errors: str
    on_error: str
    cutter: Cutter
    report: ReadReport

    def read(self, files: Sequence[Path]) -> Iterator[Block]:
        inside = False
        for path in files:
            for block in self._read_file(path):
                if block.data or inside:
                    self.report.documents += block.ends_document
                    yield block
                inside = not block.ends_document

    def _read_file(self, path: Path) -> Iterator[Block]:
        before = self.report.bytes_read
        if path.suffix.lower() == ".parquet":
            yield from self._parquet(path)
            self.report.bytes_read = before + path.stat().st_size
            return
        try:
            file = UnpackedFile(path)
        except DamagedFileError as error:
            self._bad(f"can't open {path} ({error}): expected a file that may be read")
            return
        unpacked_name = path.name.lower().removesuffix(".gz").removesuffix(".zst")
        read = self._jsonl if unpacked_name.endswith(".jsonl") else self._text
        with file:
            for block in read(path, file):
                self.report.bytes_read = before + file.position()
                yield block

    def _bad(self, complaint: str) -> None:
        if self.on_error == "raise":
            raise UserError(complaint)
        self.report.skipped += 1
        if len(self.report.complaints) < _MOST_COMPLAINTS:
            self.report.complaints.append(complaint)

    def _text(self, path: Path, file: UnpackedFile) -> Iterator[Block]:
        damage: list[DamagedFileError] = []

        def readinto(view: memoryview) -> int:
            try:
                return file.readinto(view)
            except DamagedFileError as error:
                damage.append(error)
                return 0

        offset = 0
        replaced = replacing(readinto) if self.errors == "replace" else readinto
        for block in self._cut(str(path), replaced):
            bad = utf8_error(block.data)
            if bad is None:
                data = block.data if offset else block.data.removeprefix(codecs.BOM_UTF8)
                yield Block(data, block.ends_document)
                offset += len(block.data)
                continue
            if not damage:  # else a character that the damage cut in two is no error of its own
                line = _line_at(path, offset + bad)
                self._bad(
                    f"{path} is not UTF-8 text (byte {offset + bad}, line {line}): convert it, "
                    f"or have such bytes replaced"
                )
            yield Block(block.data[:bad], True)
            break
        if damage:
            self._bad(_damaged(path, _line_at(path, None), damage[0]))

    def _jsonl(self, path: Path, file: UnpackedFile) -> Iterator[Block]:
        lines = io.BufferedReader(file, BLOCK_BYTES)
        longest = self.cutter.longest
        for number in itertools.count(1):
            where = f"{path}, line {number}"
            try:
                line = rest = lines.readline(longest)
                while len(rest) == longest and not rest.endswith(b"\n"):
                    rest = lines.readline(longest)
            except DamagedFileError as error:
                self._bad(_damaged(path, number, error))
                return
            if not line:
                return
            text = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
            if not text.strip():
                continue
            try:
                if line is not rest:
                    raise _BadDocumentError(f"is longer than {longest:,} bytes")
                data = self._value(text)
            except _BadDocumentError as error:
                self._bad(f"{where} {error}")
            else:
                yield from self._whole(where, data)

    def _value(self, line: bytes) -> bytes:
        """The text on a line of JSON."""
        try:
            value = json.loads(line.rstrip().decode(errors=self.errors))
        except UnicodeDecodeError as error:
            raise _BadDocumentError(f"is not UTF-8 text (byte {error.start} of the line)") from None
        except json.JSONDecodeError as error:
            what = f"{error.msg}, column {error.colno}"
            raise _BadDocumentError(f"is broken JSON ({what}): expected an object") from None
        except (ValueError, RecursionError) as error:
            raise _BadDocumentError(f"can't be read as JSON ({error})") from None
        text = value.get(self.field) if isinstance(value, dict) else None
        if not isinstance(text, str):
            raise _BadDocumentError(
                f"has no string under {self.field!r}: expected an object with one"
            )
        if self.errors == "replace":
            text = _SURROGATE.sub("\ufffd", text)
        try:
            return text.encode()
        except UnicodeEncodeError as error:
            surrogate = f"U+{ord(text[error.start]):04X}"
            raise _BadDocumentError(
                f"has the lone surrogate {surrogate}: expected characters"
            ) from None

    def _parquet(self, path: Path) -> Iterator[Block]:
        row = 0
        try:
            for value in parquet_values(path, self.column):
                row += 1
                yield from self._row(f"{path}, row {row}", value)
        except DamagedFileError as error:
            self._bad(f"{path} can't be read as Parquet after row {row} ({error})")

    def _row(self, where: str, value: bytes | None) -> Iterator[Block]:
        if value is None:
            self._bad(f"{where} is null: expected a string")
            return
        if self.errors == "replace":
            value = value.decode(errors="replace").encode()
        if (bad := utf8_error(value)) is not None:
            self._bad(f"{where} is not UTF-8 text (byte {bad} of the value)")
            return
        yield from self._whole(where, value)

    def _whole(self, where: str, data: bytes) -> Iterator[Block]:
        """A document that is in memory already."""
        if len(data) <= self.cutter.block_bytes:
            yield Block(data, True)
        else:
            yield from self._cut(where, io.BytesIO(data).readinto)

    def _cut(self, where: str, readinto: ReadInto) -> Iterator[Block]:
        try:
            yield from self.cutter.blocks(readinto)
        except TooLongError as error:
            self._bad(f"{where} {error}")
            yield Block(b"", True)


def _line_at(path: Path, offset: int | None) -> int:
    """The number of the line on which a byte of a file lies; without one, its last readable line.

    Read again: counting lines all along would cost every good file time.
    """
    newlines, left = 0, 1 << 62 if offset is None else offset
    buffer = bytearray(BLOCK_BYTES)
    with UnpackedFile(path) as file:
        try:
            while left and (n := file.readinto(memoryview(buffer)[:left])):
                newlines += buffer.count(b"\n", 0, n)
                left -= n
        except DamagedFileError:
            pass
    return newlines + 1


def _damaged(path: Path, line: int, error: DamagedFileError) -> str:
    return f"{path} is truncated or corrupt at line {line} ({error}): make or fetch it again"
