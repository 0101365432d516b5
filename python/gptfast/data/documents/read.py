"""Read the documents of text, JSON lines and Parquet files as blocks."""

from __future__ import annotations

import codecs
import dataclasses
import io
import itertools
import json
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

from gptfast.data.documents.block import Block, Lines, Place
from gptfast.data.documents.cut import BLOCK_BYTES, Cutter, ReadInto, TooLongError, replacing
from gptfast.data.documents.listing import Paths, find_files
from gptfast.data.documents.options import ReadOptions
from gptfast.data.documents.report import ReadReport
from gptfast.data.documents.separator import Piece, Separated
from gptfast.data.documents.spelled import SpelledTokens
from gptfast.data.documents.unpack import DamagedFileError, UnpackedFile
from gptfast.errors import UserError
from gptfast.tokenizer.rust import utf8_error

_SURROGATE = re.compile("[\ud800-\udfff]")


def read_blocks(
    paths: Paths,
    options: ReadOptions | None = None,
    *,
    safe_cut: Callable[[bytes], int] | None = None,
    block_bytes: int = BLOCK_BYTES,
    special_tokens: Collection[str] = (),
    report: ReadReport | None = None,
) -> Iterator[Block]:
    """Read the non-empty documents of files, folders and globs, block by block.

    A .jsonl file has a document on each line, a .parquet file one in each row; any other file is
    one document, or several that `options.document_separator` separates (separator.py). Text and
    .jsonl files may be compressed (.gz, .zst), and a byte order mark (U+FEFF) at their beginning is
    dropped.

    safe_cut: returns the last position inside a part of a document where it may be cut, or 0 if
    there is none. Without it, each document is one block.
    block_bytes: maximum size of a block, unless there is no place to cut. A longer stretch that
    can't be cut, or a longer line of JSON, is an error beyond `options.longest_uncut` bytes.
    special_tokens: names that `report.spelled` counts, beside whatever looks like `<|name|>`.
    report: is updated while reading.

    With `on_error="skip"`, errors are counted and logged by `report`, and what is broken is left
    out: a line of JSON, a row, a document between separators (of one longer than 256 KiB the rest),
    or the rest of any other text or of a damaged file. Otherwise raises UserError with the file's
    name and line. Raises MissingFileError if a path names no file.
    """
    options = options or ReadOptions()
    cutter = Cutter(safe_cut or (lambda data: 0), block_bytes, options.longest_uncut or (1 << 62))
    spelled = SpelledTokens(special_tokens)
    return _Reader(options, cutter, spelled, report or ReadReport()).read(find_files(paths))


class _BadDocumentError(Exception):
    """The document can't be used; the message says why."""


@dataclasses.dataclass(frozen=True)
class _Reader:
    """A method for each kind of file, and what they share."""

    options: ReadOptions
    cutter: Cutter
    spelled: SpelledTokens
    report: ReadReport

    def read(self, files: Sequence[Path]) -> Iterator[Block]:
        inside = False
        for path in files:
            for block in self._read_file(path):
                if block.data or inside:
                    self.report.documents += block.ends_document
                    self.report.text_bytes += len(block.data)
                    self.spelled.count(block.data, self.report.spelled)
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
            self._bad(f"can't open {path} ({error}): check its permissions", str(path))
            return
        unpacked_name = path.name.lower().removesuffix(".gz").removesuffix(".zst")
        read = self._jsonl if unpacked_name.endswith(".jsonl") else self._text
        with file:
            for block in read(path, file):
                self.report.bytes_read = before + file.position()
                yield block

    def _bad(self, complaint: str, place: Place | str) -> None:
        """Leave out what is at `place`: a document, or the rest of a file."""
        if self.options.on_error == "raise":
            raise UserError(complaint)
        self.report.skip(complaint, place)

    def _text(self, path: Path, file: UnpackedFile) -> Iterator[Block]:
        damage: list[DamagedFileError] = []

        def readinto(view: memoryview) -> int:
            try:
                return file.readinto(view)
            except DamagedFileError as error:
                damage.append(error)
                return 0

        errors = self.options.errors
        documents = Separated(
            replacing(readinto) if errors == "replace" else readinto, self.options.separator
        )
        lines, n_documents = Lines(path, errors), 0
        for document in documents:
            n_documents += 1
            yield from self._text_document(document, str(path), lines, damage)
        if documents.found:
            self.report.split_files += 1
            self.report.split_documents += n_documents
        if damage:
            place = Place(str(path), "line", lines.at(None))
            self._bad(_damaged(place, damage[0]), place)

    def _text_document(
        self, document: Piece, file: str, lines: Lines, damage: list[DamagedFileError]
    ) -> Iterator[Block]:
        offset = document.offset
        place = Place(file, "line", offset, lines)
        for block in (
            self._cut(place, document.readinto)
            if document.data is None
            else self._whole(place, document.data)
        ):
            bad = utf8_error(block.data)
            if bad is None:
                data = block.data if offset else block.data.removeprefix(codecs.BOM_UTF8)
                yield Block(data, block.ends_document, Place(file, "line", offset, lines))
                offset += len(block.data)
                continue
            if not damage:  # damage may cut a character in two, which is no error of its own
                place = Place(file, "line", lines.at(offset + bad))
                self._bad(
                    f"{file} is not UTF-8 text (byte {offset + bad}, line {place.number}): convert "
                    f"it, or set errors to 'replace'",
                    place,
                )
            is_whole = document.data is not None and document.is_separated
            yield Block(b"" if is_whole else block.data[:bad], True, place)
            break

    def _jsonl(self, path: Path, file: UnpackedFile) -> Iterator[Block]:
        lines = io.BufferedReader(file, BLOCK_BYTES)
        longest, name = self.cutter.longest, str(path)
        for number in itertools.count(1):
            place = Place(name, "line", number)
            try:
                line = rest = lines.readline(longest)
                while len(rest) == longest and not rest.endswith(b"\n"):
                    rest = lines.readline(longest)
            except DamagedFileError as error:
                self._bad(_damaged(place, error), place)
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
                self._bad(f"{place} {error}", place)
            else:
                yield from self._whole(place, data)

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

        row, name = 0, str(path)
        try:
            for value in parquet_values(path, self.options.column):
                row += 1
                yield from self._row(Place(name, "row", row), value)
        except DamagedFileError as error:
            self._bad(f"{path} can't be read as Parquet after row {row} ({error})", name)

    def _row(self, place: Place, value: bytes | None) -> Iterator[Block]:
        if value is None:
            self._bad(f"{place} is null: expected a string", place)
            return
        if self.options.errors == "replace":
            value = value.decode(errors="replace").encode()
        if (bad := utf8_error(value)) is not None:
            self._bad(f"{place} is not UTF-8 text (byte {bad} of the value)", place)
            return
        yield from self._whole(place, value)

    def _whole(self, place: Place, data: bytes) -> Iterator[Block]:
        """Yield the blocks of a document that is already in memory."""
        if len(data) <= self.cutter.block_bytes:
            yield Block(data, True, place)
        else:
            yield from self._cut(place, io.BytesIO(data).readinto)

    def _cut(self, place: Place, readinto: ReadInto) -> Iterator[Block]:
        try:
            for data, ends_document in self.cutter.blocks(readinto):
                yield Block(data, ends_document, place)
        except TooLongError as error:
            self._bad(f"{place} {error}", place)
            yield Block(b"", True, place)


def _damaged(place: Place, error: DamagedFileError) -> str:
    return (
        f"{place.file} is truncated or corrupt at line {place.number} ({error}): create or "
        f"download it again"
    )
