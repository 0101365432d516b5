"""Read the documents of files of all formats as blocks."""

from __future__ import annotations

import codecs
import dataclasses
import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from gptfast.data.documents.archives import on_disk, tar_members, zip_members
from gptfast.data.documents.cut import (
    BLOCK_BYTES,
    Block,
    Cutter,
    ReadInto,
    TooLongError,
    replacing,
)
from gptfast.data.documents.foreign import foreign, is_text
from gptfast.data.documents.json_records import json_lines, json_values
from gptfast.data.documents.listing import Paths, find_files
from gptfast.data.documents.names import PACKINGS, promised_format
from gptfast.data.documents.notes import say_once
from gptfast.data.documents.options import ReadOptions
from gptfast.data.documents.parquet import parquet_rows
from gptfast.data.documents.pipes import shown
from gptfast.data.documents.records import Record, UnusableFileError
from gptfast.data.documents.sniff import Found, delimiter_of, format_of
from gptfast.data.documents.tables import table_rows
from gptfast.data.documents.unpack import DamagedFileError, FileOnDisk, Stream, unpack
from gptfast.data.documents.wanted import LeftOut
from gptfast.errors import UserError
from gptfast.tokenizer.rust import utf8_error

_MAX_COMPLAINTS = 20
_MAX_DEPTH = 4  # of archives in archives


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

    JSON has a document on each line or in each element of an array, a table (CSV, TSV, Parquet) one
    in each row; any other text is one document. All may be compressed (gzip, zstd, bzip2, xz, lz4)
    and in tar or zip archives. The content decides, and the suffix breaks ties. A byte order mark
    (U+FEFF) at the beginning of a text is dropped. What a file's name doesn't promise, and what is
    left out of an archive, is said once on stderr.

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


@dataclasses.dataclass(frozen=True)
class _Source:
    """A file, or a member of an archive."""

    where: str
    """How messages name it."""
    name: str
    """By whose suffixes its format is guessed where the content doesn't tell."""
    path: Path | None
    """The file itself; None for a member."""


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
        try:
            file = FileOnDisk(path)
        except DamagedFileError as error:
            self._bad(f"can't open {shown(path)} ({error}): check its permissions")
            return
        with file:
            for block in self._content(_Source(shown(path), path.name, path), file):
                self.report.bytes_read = before + file.position
                yield block
        self.report.bytes_read = before + path.stat().st_size

    def _content(self, source: _Source, packed: Stream, depth: int = 0) -> Iterator[Block]:
        """Read a file, or a member of an archive, as what it is."""
        where, options = source.where, self.options
        try:
            stream, name = unpack(packed, source.name, where, options.memory_bytes)
        except DamagedFileError as error:
            self._bad(_damaged(where, 1, error))
            return
        except UnusableFileError as error:
            self._bad(f"{where} {error}")
            return
        head = stream.look()
        found = format_of(name, head, options.field, options.column)
        match found.format:
            case "tar":
                yield from self._archive(where, tar_members(stream, LeftOut(where)), depth)
            case "zip":
                with on_disk(stream) as file:
                    yield from self._archive(where, zip_members(file, LeftOut(where)), depth)
            case "parquet" if source.path is not None and stream is packed:
                rows = parquet_rows(source.path, where, options.column, options.errors)
                yield from self._records(where, "row", rows)
            case "parquet":
                with on_disk(stream) as file:
                    rows = parquet_rows(file, where, options.column, options.errors)
                    yield from self._records(where, "row", rows)
            case _ if what := foreign(name, head):
                self._bad(f"{where} {what}")
            case _:
                yield from self._text_format(source, stream, name, head, found)

    def _text_format(
        self, source: _Source, stream: Stream, name: str, head: bytes, found: Found
    ) -> Iterator[Block]:
        where, options, longest = source.where, self.options, self.cutter.longest
        if head and (promised := promised_format(name)):
            if promised not in PACKINGS.values() or not is_text(head):
                error = DamagedFileError(f"it doesn't begin as a {promised} file does")
                self._bad(_damaged(where, 1, error))
                return
            say_once(f"{where} is no {promised} file, and is read as the text that it is")
        if found.note is not None:
            folder = where if source.path is None else source.path.parent
            say_once(f"{where} {found.note}", (found.format, folder))
        match found.format:
            case "json lines":
                records = json_lines(stream, options.field, options.errors, longest)
            case "json":
                records = json_values(stream, options.field, options.errors, longest)
            case "table":
                delimiter = delimiter_of(name, head, options.column)
                records = table_rows(stream, options.column, options.errors, delimiter)
            case _:
                yield from self._text(source, stream)
                return
        yield from self._records(where, "line", records)

    def _archive(
        self, where: str, members: Iterator[tuple[str, Stream]], depth: int
    ) -> Iterator[Block]:
        if depth == _MAX_DEPTH:
            self._bad(f"{where} is an archive in {depth:,} others: unpack it first")
            return
        try:
            for name, member in members:
                source = _Source(f"{where}, member {name}", name, None)
                yield from self._content(source, member, depth + 1)
        except DamagedFileError as error:
            self._bad(f"{where} is truncated or corrupt ({error}): create or download it again")
        except UnusableFileError as error:
            self._bad(f"{where} {error}")

    def _records(self, where: str, unit: str, records: Iterator[Record]) -> Iterator[Block]:
        for place, data in records:
            if isinstance(data, bytes):
                if len(data) <= self.cutter.block_bytes:
                    yield Block(data, True)
                else:
                    yield from self._cut(f"{where}, {unit} {place}", io.BytesIO(data).readinto)
            elif isinstance(data, UnusableFileError):
                self._bad(f"{where} {data}")
            elif not isinstance(data, DamagedFileError):
                self._bad(f"{where}, {unit} {place} {data}")
            elif unit == "row":
                self._bad(f"{where} can't be read as Parquet after row {place} ({data})")
            else:
                self._bad(_damaged(where, place, data))

    def _bad(self, complaint: str) -> None:
        if self.options.on_error == "raise":
            raise UserError(complaint)
        self.report.skipped += 1
        if len(self.report.complaints) < _MAX_COMPLAINTS:
            self.report.complaints.append(complaint)

    def _text(self, source: _Source, stream: Stream) -> Iterator[Block]:
        damage: list[DamagedFileError] = []

        def readinto(view: memoryview) -> int:
            try:
                return stream.readinto(view)
            except DamagedFileError as error:
                damage.append(error)
                return 0

        where, offset, newlines = source.where, 0, 0
        replaced = replacing(readinto) if self.options.errors == "replace" else readinto
        for block in self._cut(where, replaced):
            bad = utf8_error(block.data)
            if source.path is None:
                newlines += block.data.count(b"\n", 0, bad)
            if bad is None:
                data = block.data if offset else block.data.removeprefix(codecs.BOM_UTF8)
                yield Block(data, block.ends_document)
                offset += len(block.data)
                continue
            if not damage:  # damage may cut a character in two, which is no error of its own
                line = _line_at(source.path, offset + bad) if source.path else newlines + 1
                self._bad(
                    f"{where} is not UTF-8 text (byte {offset + bad}, line {line}): convert it, "
                    f"for example with `iconv -f WINDOWS-1252 -t UTF-8`, or set errors to 'replace'"
                )
            yield Block(block.data[:bad], True)
            break
        if damage:
            line = _line_at(source.path, None) if source.path else newlines + 1
            self._bad(_damaged(where, line, damage[0]))

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
    with FileOnDisk(path) as file:
        stream, _ = unpack(file, path.name, str(path))
        try:
            while left and (n := stream.readinto(memoryview(buffer)[:left])):
                newlines += buffer.count(b"\n", 0, n)
                left -= n
        except DamagedFileError:
            pass
    return newlines + 1


def _damaged(where: str, line: int | str, error: DamagedFileError) -> str:
    return f"{where} is truncated or corrupt at line {line} ({error}): create or download it again"
