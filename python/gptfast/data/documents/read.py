"""Read the documents of files of all formats as blocks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Literal

from gptfast.data.documents.archives import on_disk
from gptfast.data.documents.block import Block, Documents, one_by_one
from gptfast.data.documents.blocks import BlockMaker
from gptfast.data.documents.cut import BLOCK_BYTES, Cutter
from gptfast.data.documents.foreign import foreign, is_markup, is_text
from gptfast.data.documents.json_lines import JsonLines
from gptfast.data.documents.json_records import json_values
from gptfast.data.documents.listing import Paths, find_files
from gptfast.data.documents.names import PACKINGS, promised_format
from gptfast.data.documents.notes import say_once
from gptfast.data.documents.options import ReadOptions
from gptfast.data.documents.parquet import parquet_rows
from gptfast.data.documents.records import UnusableFileError
from gptfast.data.documents.report import ReadReport
from gptfast.data.documents.sniff import Found, delimiter_of, format_of
from gptfast.data.documents.source import Source
from gptfast.data.documents.spelled import SpelledTokens
from gptfast.data.documents.tables import table_rows
from gptfast.data.documents.unpack import (
    DamagedFileError,
    FileOnDisk,
    Stream,
    unpack,
)
from gptfast.tokenizer.rust import thread_count

_MAX_DEPTH = 4  # of archives in archives


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

    JSON has a document on each line or in each element of an array, a table (CSV, TSV, Parquet) one
    in each row; any other text is one document, or several that `options.document_separator`
    separates (separator.py). All may be compressed (gzip, zstd, bzip2, xz, lz4) and in tar or zip
    archives. The content decides, and the suffix breaks ties. A byte order mark (U+FEFF) at the
    beginning of a text is dropped. What a file's name doesn't promise, and what is left out of an
    archive, is said once on stderr.

    safe_cut: returns the last position inside a part of a document where it may be cut, or 0 if
    there is none. Without it, each document is one block.
    block_bytes: maximum size of a block, unless there is no place to cut. A longer stretch that
    can't be cut, or a longer line of JSON, is an error beyond `options.longest_uncut` bytes.
    special_tokens: names that `report.spelled` counts, beside those that SpelledTokens knows.
    report: is updated while reading.

    With `on_error="skip"`, errors are counted and logged by `report`, and what is broken is left
    out: a line of JSON, a row, a document between separators (of one longer than 256 KiB the rest),
    or the rest of any other text or of a damaged file. Otherwise raises UserError with the file's
    name and line. Raises MissingFileError if a path names no file.
    """
    read = read_documents(
        paths,
        options,
        safe_cut=safe_cut,
        block_bytes=block_bytes,
        special_tokens=special_tokens,
        report=report,
    )
    return one_by_one(read)


def read_documents(
    paths: Paths,
    options: ReadOptions | None = None,
    *,
    safe_cut: Callable[[bytes], int] | None = None,
    block_bytes: int = BLOCK_BYTES,
    special_tokens: Collection[str] = (),
    report: ReadReport | None = None,
) -> Iterator[Block | Documents]:
    """Read what `read_blocks` does, but the documents of JSON lines many at a time."""
    options = options or ReadOptions()
    cutter = Cutter(safe_cut or (lambda data: 0), block_bytes, options.longest_uncut or (1 << 62))
    spelled = SpelledTokens(special_tokens)
    report = report or ReadReport()
    make = BlockMaker(options, cutter, report)
    return _Reader(options, cutter, spelled, report, make).read(find_files(paths))


@dataclasses.dataclass(frozen=True)
class _Reader:
    """Reads each file as what it is."""

    options: ReadOptions
    cutter: Cutter
    spelled: SpelledTokens
    report: ReadReport
    make: BlockMaker

    def read(self, files: Sequence[Path]) -> Iterator[Block | Documents]:
        inside = False
        for path in files:
            for block in self._read_file(path):
                if isinstance(block, Documents):
                    self.report.documents += len(block.lines)
                    self.report.text_bytes += int(block.sizes.sum())
                    self.spelled.count(block.data, self.report.spelled)
                    yield block
                    continue
                if block.data or inside:
                    self.report.documents += block.ends_document
                    self.report.text_bytes += len(block.data)
                    self.spelled.count(block.data, self.report.spelled)
                    yield block
                inside = not block.ends_document

    def _read_file(self, path: Path) -> Iterator[Block | Documents]:
        before, source = self.report.bytes_read, Source.of_file(path)
        try:
            file = FileOnDisk(path)
        except DamagedFileError as error:
            complaint = f"can't open {source.where} ({error}): check its permissions"
            self.make.bad(complaint, source.where)
            return
        with file:
            for block in self._content(source, file):
                self.report.bytes_read = before + file.position
                yield block
        self.report.bytes_read = before + path.stat().st_size

    def _content(
        self, source: Source, packed: Stream, depth: int = 0
    ) -> Iterator[Block | Documents]:
        """Read a file, or a member of an archive, as what it is."""
        where, options, make = source.where, self.options, self.make
        try:
            stream, name = unpack(packed, source.name, where, options.memory_bytes)
        except DamagedFileError as error:
            make.damaged(where, 1, error)
            return
        except UnusableFileError as error:
            make.bad(f"{where} {error}", where)
            return
        head = stream.look()
        found = format_of(name, head, options.field, options.column)
        if found.format == "tar" or found.format == "zip":
            yield from self._archive(source, found.format, stream, depth)
        elif found.format == "parquet":
            yield from self._parquet(where, stream)
        elif (what := foreign(name, head)) is not None:
            make.bad(f"{where} {what}", where)
        else:
            yield from self._text(source, stream, name, found)

    def _parquet(self, where: str, stream: Stream) -> Iterator[Block | Documents]:
        plain = stream.path if isinstance(stream, FileOnDisk) else None
        try:
            with nullcontext(plain) if plain else on_disk(stream) as file:
                rows = parquet_rows(file, where, self.options.column, self.options.errors)
                yield from self.make.of_records(where, "row", rows)
        except DamagedFileError as error:  # of the packing
            self.make.bad(_damaged(where, error), where)

    def _archive(
        self, source: Source, kind: Literal["tar", "zip"], stream: Stream, depth: int
    ) -> Iterator[Block | Documents]:
        where, bad = source.where, self.make.bad
        if depth == _MAX_DEPTH:
            bad(f"{where} is an archive in {depth} others: unpack it first", where)
            return
        try:
            for inside, member in source.members(kind, stream):
                if isinstance(member, UnusableFileError):
                    bad(f"{inside.where} {member}", inside.where)
                else:
                    yield from self._content(inside, member, depth + 1)
        except DamagedFileError as error:
            bad(_damaged(where, error), where)
        except UnusableFileError as error:
            bad(f"{where} {error}", where)

    def _text(
        self, source: Source, stream: Stream, name: str, found: Found
    ) -> Iterator[Block | Documents]:
        """Read text, JSON or a table."""
        where, options, longest = source.where, self.options, self.cutter.longest
        head = stream.look()
        if head and (promised := promised_format(name)):
            is_answer = found.format == "text" and head.lstrip()[:1] in (b"<", b"{")  # a server's
            if promised not in PACKINGS.values() or is_answer or not is_text(head):
                but = ", but as a server's error message" if is_answer else ""
                error = DamagedFileError(f"it doesn't begin as a {promised} file does{but}")
                self.make.damaged(where, 1, error)
                return
            say_once(f"{where} is no {promised} file, and is read as the text that it is")
        if found.note is not None:
            say_once(f"{where} {found.note}", (found.format, source.folder))
        if found.format == "json lines":
            n_threads, block_bytes = thread_count(options.n_threads), self.cutter.block_bytes
            lines = JsonLines(options.field, options.errors, longest, block_bytes, n_threads)
            yield from self.make.of_records(where, "line", lines.read(stream, where))
        elif found.format == "json":
            values = json_values(stream, options.field, options.errors, longest)
            yield from self.make.of_records(where, "value", values)
        elif found.format == "table":
            delimiter = delimiter_of(name, head, options.column)
            rows = table_rows(stream, options.column, options.errors, delimiter)
            yield from self.make.of_records(where, "line", rows)
        else:
            if is_markup(head):
                say_once(f"{where} is a web page or XML, and its markup is read as text")
            yield from self.make.of_text(source, stream)


def _damaged(where: str, error: DamagedFileError) -> str:
    return f"{where} is truncated or corrupt ({error}): create or download it again"
