"""Documents in tables of text: CSV and TSV files with a header, a document in each row."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import Literal

from gptfast.data.documents.records import CONVERT, BadRecordError, Record, UnusableFileError
from gptfast.data.documents.unpack import DamagedFileError

_LONGEST_FIELD = 1 << 28  # characters: what a quotation mark that is never closed may take
_MAX_NAMES = 8
_BUFFER_BYTES = 1 << 18


def table_rows(
    stream: io.RawIOBase, column: str, errors: Literal["strict", "replace"], delimiter: str
) -> Iterator[Record]:
    """Yield the number of the line that each row begins in, and the text in its column.

    Fields may be quoted ("), and then contain delimiters, ends of lines and "" for ". Empty lines
    don't count.
    """
    csv.field_size_limit(max(csv.field_size_limit(), _LONGEST_FIELD))
    # Bytes that are not UTF-8 become surrogates, so that they are an error of their row only.
    how = "surrogateescape" if errors == "strict" else errors
    lines = io.TextIOWrapper(
        io.BufferedReader(stream, _BUFFER_BYTES), encoding="utf-8-sig", errors=how, newline=""
    )
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
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
            yield line, BadRecordError(what)
        except DamagedFileError as error:
            yield line, error
            return


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
