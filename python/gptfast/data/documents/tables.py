"""Documents in tables of text: CSV and TSV files with a header, a document in each row."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator
from typing import Literal

from gptfast.data.documents.records import CONVERT, BadRecordError, Record, UnusableFileError
from gptfast.data.documents.unpack import DamagedFileError

_LONGEST_FIELD = 1 << 28  # characters: what a quotation mark that is never closed may take
_MAX_NAMES = 8
_QUOTED = re.compile('"(?:[^"]|"")*"')
_BUFFER_BYTES = 1 << 18


def table_rows(
    stream: io.RawIOBase, column: str, errors: Literal["strict", "replace"], delimiter: str
) -> Iterator[Record]:
    """Yield the number of the line that each row begins in, and the text in its column.

    Fields may be quoted ("), and then contain delimiters, ends of lines and "" for ". Empty lines
    don't count. Between tabs, quotation marks may also be text: see `_TabRows`.
    """
    csv.field_size_limit(max(csv.field_size_limit(), _LONGEST_FIELD))
    # Bytes that are not UTF-8 become surrogates, so that they are an error of their row only.
    how = "surrogateescape" if errors == "strict" else errors
    lines = io.TextIOWrapper(
        io.BufferedReader(stream, _BUFFER_BYTES), encoding="utf-8-sig", errors=how, newline=""
    )
    reader = (
        _TabRows(lines)
        if delimiter == "\t"
        else csv.reader(lines, strict=True, delimiter=delimiter)
    )
    header: list[str] = []
    while True:
        line = reader.line_num + 1
        try:
            row = next(reader)
            if header and row:
                yield line, _text_of(row, header, column)
            elif row:
                header = row
                if header.count(column) != 1:
                    yield line, UnusableFileError(_no_column(header, column))
                    return
        except StopIteration:
            return
        except BadRecordError as error:
            yield line, error
        except csv.Error as error:
            what = f'is no row of a table ({error}): put the field in ", and write "" for a " in it'
            if reader.line_num > line:
                what += f"; it takes the lines up to {reader.line_num:,}"
            yield line, BadRecordError(what)
        except DamagedFileError as error:
            yield line, error
            return


class _TabRows:
    """Iterates over rows with tabs between fields, as a csv.reader does.

    Some programs quote fields as in CSV, others write quotation marks as text. A line with as many
    fields as the header is a row by itself: of its fields, those are quoted that begin and end with
    a quotation mark. A quoted field goes on in further lines if the next one is not such a row.
    """

    def __init__(self, lines: Iterable[str]) -> None:
        self.line_num = 0
        self._lines = iter(lines)
        self._next: str | None = next(self._lines, None)
        self._n_fields = 0  # of the header

    def __iter__(self) -> Iterator[list[str]]:
        return self

    def __next__(self) -> list[str]:
        line = self._line()
        if not (text := line.rstrip("\r\n")):
            return []
        fields = text.split("\t")
        if '"' in text:
            if self._is_whole(fields):
                fields = [_unquoted(field) for field in fields]
            else:
                fields = self._quoted(line)
        self._n_fields = self._n_fields or len(fields)
        return fields

    def _line(self) -> str:
        if (line := self._next) is None:
            raise StopIteration
        self.line_num += 1
        self._next = next(self._lines, None)
        return line

    def _is_whole(self, fields: list[str]) -> bool:
        if len(fields) != (self._n_fields or len(fields)):
            return False
        opens = any(field.startswith('"') and not field.endswith('"') for field in fields)
        if not opens or self._next is None:
            return True
        if len(fields) == 1:  # where each line is such a row
            return False
        return len(self._next.split("\t")) == len(fields)

    def _quoted(self, line: str) -> list[str]:
        parts, n_quotes = [line], line.count('"')
        while n_quotes % 2 and self._next is not None:
            parts.append(self._line())
            n_quotes += parts[-1].count('"')
        return next(csv.reader(parts, delimiter="\t", strict=True))


def _unquoted(field: str) -> str:
    return field[1:-1].replace('""', '"') if _QUOTED.fullmatch(field) else field


def _no_column(header: list[str], column: str) -> str:
    names = ", ".join(repr(name[:40]) for name in header[:_MAX_NAMES])
    more = ", ..." if len(header) > _MAX_NAMES else ""
    how_many = "more than one column" if column in header else "no column"
    return (
        f"has {how_many} {column!r} in its first line, which names {names}{more}: expected a table "
        f"with a header; --column names another column"
    )


def _text_of(row: list[str], header: list[str], column: str) -> bytes:
    if len(row) != len(header):
        raise BadRecordError(
            f"begins a row of {len(row):,} columns: expected {len(header):,}, as in the header"
        )
    try:
        return row[header.index(column)].encode()
    except UnicodeEncodeError:
        raise BadRecordError(f"begins a row that is not UTF-8 text: {CONVERT}") from None
