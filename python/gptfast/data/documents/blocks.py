"""Documents from streams of text and from records, cut into blocks, and what can't be used."""

from __future__ import annotations

import codecs
import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from gptfast.data.documents.block import Block, Documents, Lines, Place
from gptfast.data.documents.cut import Cutter, ReadInto, TooLongError, replacing
from gptfast.data.documents.notes import say_once
from gptfast.data.documents.options import ReadOptions
from gptfast.data.documents.records import CONVERT, Record, UnusableFileError
from gptfast.data.documents.report import ReadReport
from gptfast.data.documents.separator import Piece, Separated
from gptfast.data.documents.source import Source
from gptfast.data.documents.unpack import DamagedFileError, Stream
from gptfast.errors import UserError
from gptfast.tokenizer.rust import utf8_error


@dataclass(frozen=True)
class BlockMaker:
    """Makes blocks of documents; refuses or reports what can't be used."""

    options: ReadOptions
    cutter: Cutter
    report: ReadReport

    def bad(self, complaint: str, place: Place | str) -> None:
        """Leave out what is at `place`: a document, or the rest of a file."""
        if self.options.on_error == "raise":
            raise UserError(complaint)
        self.report.skip(complaint, place)

    def damaged(self, where: str, line: int, error: DamagedFileError) -> None:
        """Leave out the rest of a file from a line on."""
        self.bad(
            f"{where} is truncated or corrupt at line {line} ({error}): create or download it "
            f"again",
            Place(where, "line", line),
        )

    def of_records(
        self,
        where: str,
        unit: Literal["line", "row", "value"],
        records: Iterator[Record | Documents],
    ) -> Iterator[Block | Documents]:
        """Yield the blocks of documents that are read as a whole. unit: of their numbers."""
        block_bytes = self.cutter.block_bytes
        for record in records:
            if isinstance(record, Documents):
                yield from self._documents(record)
                continue
            number, data = record
            if isinstance(data, bytes):
                if len(data) <= block_bytes:
                    yield Block(data, True, Place(where, unit, number))
                else:
                    yield from self._whole(Place(where, unit, number), data)
            elif isinstance(data, UnusableFileError):
                self.bad(f"{where} {data}", where)
            elif not isinstance(data, DamagedFileError):
                place = Place(where, unit, number)
                self.bad(f"{place} {data}", place)
            elif unit == "row":
                after = f" after row {number:,}" if number else ""
                self.bad(f"{where} can't be read as Parquet{after} ({data})", where)
            else:
                self.damaged(where, number, data)

    def of_text(self, source: Source, stream: Stream) -> Iterator[Block]:
        """Yield the blocks of the documents in a text: one, or as the separator divides them."""
        damage: list[DamagedFileError] = []

        def readinto(view: memoryview) -> int:
            try:
                return stream.readinto(view)
            except DamagedFileError as error:
                damage.append(error)
                return 0

        errors = self.options.errors
        documents = Separated(
            replacing(readinto) if errors == "replace" else readinto, self.options.separator
        )
        lines, n_documents = Lines(source.unpacked, errors), 0
        for document in documents:
            n_documents += document.data != b""  # as of an empty file
            yield from self._text_document(document, source.where, lines, damage)
        if documents.found:
            self.report.split_files += 1
            self.report.split_documents += n_documents
        elif n_documents:
            self.report.whole_files += 1
        if damage:
            self.damaged(source.where, lines.at(None), damage[0])

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
                if b"\x00" in block.data and not lines.has_nul:
                    lines.has_nul = True
                    line = lines.at(at := offset + block.data.index(0))
                    say_once(
                        f"{file} has NUL characters, which are read as text: its first NUL is byte "
                        f"{at}, in line {line}; if it is a text with NULs by mistake, remove them "
                        f"with `tr -d '\\000'`"
                    )
                data = block.data if offset else block.data.removeprefix(codecs.BOM_UTF8)
                yield Block(data, block.ends_document, Place(file, "line", offset, lines))
                offset += len(block.data)
                continue
            if not damage:  # a character cut in two by damage is not another error
                place = Place(file, "line", lines.at(offset + bad))
                self.bad(
                    f"{file} is not UTF-8 text (byte {offset + bad}, line {place.number}): "
                    f"{CONVERT}",
                    place,
                )
            is_whole = document.data is not None and document.is_separated
            yield Block(b"" if is_whole else block.data[:bad], True, place)
            break

    def _documents(self, documents: Documents) -> Iterator[Block | Documents]:
        """Yield the documents, and the blocks of those that are longer than a block, in order."""
        start, n = 0, len(documents.lines)
        for i in np.flatnonzero(documents.sizes > self.cutter.block_bytes).tolist():
            if start < i:
                yield documents.between(start, i)
            for block in documents.between(i, i + 1).blocks():
                assert block.place is not None  # as it comes from a file
                yield from self._whole(block.place, block.data)
            start = i + 1
        if start < n:
            yield documents.between(start, n)

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
            self.bad(f"{place} {error}", place)
            yield Block(b"", True, place)
