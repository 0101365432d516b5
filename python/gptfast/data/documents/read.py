"""Read the documents of text, JSON lines and Parquet files as blocks."""

from __future__ import annotations

import codecs
import dataclasses
import io
import itertools
import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from gptfast.data.documents.cut import (
    BLOCK_BYTES,
    Block,
    Cutter,
    ReadInto,
    TooLongError,
    replacing,
)
from gptfast.data.documents.listing import Paths, find_files
from gptfast.data.documents.options import ReadOptions
from gptfast.data.documents.unpack import DamagedFileError, UnpackedFile
from gptfast.errors import UserError
from gptfast.tokenizer.rust import utf8_error

_MAX_COMPLAINTS = 20
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclasses.dataclass
class ReadReport:
    """How much has been read, and what was left out."""

    documents: int = 0
    """Documents read completely."""
    bytes_read: int = 0
    """Bytes read, counted on disk, before decompression."""
    bytes_kept: int = 0
    """Bytes on disk of files that an earlier run has finished, which are not read again."""
    skipped: int = 0
    """Lines, rows and ends of files left out because of an error."""
    complaints: list[str] = dataclasses.field(default_factory=list)
    """Error messages of the first 20 of them."""

    def left_out(self) -> str:
        """Describe in one line what was skipped."""
        first = f", first: {self.complaints[0]}" if self.complaints else ""
        return f"left out {self.skipped:,} that could not be read{first}"


def read_blocks(
    paths: Paths,
    options: ReadOptions | None = None,
    *,
    safe_cut: Callable[[bytes], int] | None = None,
    block_bytes: int = BLOCK_BYTES,
    report: ReadReport | None = None,
) -> Iterator[Block]:
    """Read the non-empty documents of files, folders and globs, block by block.

    A .jsonl file has a document on each line, a .parquet file one in each row; any other file is
    one document. Text and .jsonl files may be compressed (.gz, .zst), and a byte order mark
    (U+FEFF) at their beginning is dropped.

    safe_cut: returns the last position inside a part of a document where it may be cut, or 0 if
    there is none. Without it, each document is one block.
    block_bytes: maximum size of a block, unless there is no place to cut. A longer stretch that
    can't be cut, or a longer line of JSON, is an error beyond `options.longest_uncut` bytes.
    report: is updated while reading.

    With `on_error="skip"`, errors are counted in `report` and what is broken is left out: a line
    of JSON, a row, or the rest of any other document or of a damaged file. Otherwise raises
    UserError with the file's name and line. Raises MissingFileError if a path names no file.
    """
    options = options or ReadOptions()
    cutter = Cutter(safe_cut or (lambda data: 0), block_bytes, options.longest_uncut or (1 << 62))
    return _Reader(options, cutter, report or ReadReport()).read(find_files(paths))


class _BadDocumentError(Exception):
    """The document can't be used; the message says why."""


@dataclasses.dataclass(frozen=True)
class _Reader:
    """A method for each kind of file, and what they share."""

    options: ReadOptions
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
            self._bad(f"can't open {path} ({error}): check its permissions")
            return
        unpacked_name = path.name.lower().removesuffix(".gz").removesuffix(".zst")
        read = self._jsonl if unpacked_name.endswith(".jsonl") else self._text
        with file:
            for block in read(path, file):
                self.report.bytes_read = before + file.position()
                yield block

    def _bad(self, complaint: str) -> None:
        if self.options.on_error == "raise":
            raise UserError(complaint)
        self.report.skipped += 1
        if len(self.report.complaints) < _MAX_COMPLAINTS:
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
        replaced = replacing(readinto) if self.options.errors == "replace" else readinto
        for block in self._cut(str(path), replaced):
            bad = utf8_error(block.data)
            if bad is None:
                data = block.data if offset else block.data.removeprefix(codecs.BOM_UTF8)
                yield Block(data, block.ends_document)
                offset += len(block.data)
                continue
            if not damage:  # damage may cut a character in two, which is no error of its own
                line = _line_at(path, offset + bad)
                self._bad(
                    f"{path} is not UTF-8 text (byte {offset + bad}, line {line}): convert it, "
                    f"or set errors to 'replace'"
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
        """Return the text in a line of JSON."""
        try:
            value = json.loads(line.rstrip().decode(errors=self.options.errors))
        except UnicodeDecodeError as error:
            raise _BadDocumentError(f"is not UTF-8 text (byte {error.start} of the line)") from None
        except json.JSONDecodeError as error:
            what = f"{error.msg}, column {error.colno}"
            raise _BadDocumentError(f"is broken JSON ({what}): expected an object") from None
        except (ValueError, RecursionError) as error:
            raise _BadDocumentError(f"can't be read as JSON ({error})") from None
        text = value.get(self.options.field) if isinstance(value, dict) else None
        if not isinstance(text, str):
            raise _BadDocumentError(
                f"has no string under {self.options.field!r}: expected an object with one"
            )
        if self.options.errors == "replace":
            text = _SURROGATE.sub("\ufffd", text)
        try:
            return text.encode()
        except UnicodeEncodeError as error:
            surrogate = f"U+{ord(text[error.start]):04X}"
            raise _BadDocumentError(
                f"has the lone surrogate {surrogate}: expected characters"
            ) from None

    def _parquet(self, path: Path) -> Iterator[Block]:
        from gptfast.data.documents.parquet import parquet_values

        row = 0
        try:
            for value in parquet_values(path, self.options.column):
                row += 1
                yield from self._row(f"{path}, row {row}", value)
        except DamagedFileError as error:
            self._bad(f"{path} can't be read as Parquet after row {row} ({error})")

    def _row(self, where: str, value: bytes | None) -> Iterator[Block]:
        if value is None:
            self._bad(f"{where} is null: expected a string")
            return
        if self.options.errors == "replace":
            value = value.decode(errors="replace").encode()
        if (bad := utf8_error(value)) is not None:
            self._bad(f"{where} is not UTF-8 text (byte {bad} of the value)")
            return
        yield from self._whole(where, value)

    def _whole(self, where: str, data: bytes) -> Iterator[Block]:
        """Yield the blocks of a document that is already in memory."""
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
    """Return the number of the line with the byte at `offset`; for None, of the last readable line.

    Reads the file again, because counting lines all along would slow down every good file.
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
    return f"{path} is truncated or corrupt at line {line} ({error}): create or download it again"
