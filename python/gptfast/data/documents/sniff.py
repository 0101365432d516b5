"""Find out from the beginning of a file what it is; the suffix of its name breaks ties."""

from __future__ import annotations

import codecs
import csv
import io
import itertools
import json
import re
import tarfile
from typing import Any, Literal, NamedTuple, TypeAlias

from gptfast.data.documents.foreign import foreign
from gptfast.data.documents.json_records import find_field, keys_of
from gptfast.data.documents.names import family_of, suffix_of
from gptfast.data.documents.unpack import HEAD_BYTES, packing_of_content

Format: TypeAlias = Literal["text", "json lines", "json", "table", "parquet", "tar", "zip"]


class Found(NamedTuple):
    """What a file is."""

    format: Format
    note: str | None = None
    """What to tell the user, if the name says something else."""


_FIRST_ROWS = 20
_DELIMITERS = (",", "\t", ";", "|")
_DECODER = json.JSONDecoder(parse_int=float)  # which takes any number of digits
_SPACE = re.compile(r"[ \t\r\n]*")
_NAME = re.compile(r"[^\W\d][\w .-]{0,60}")  # of a column
_CUT_OFF = 16  # characters of an escape, a number or a word that the end of the head can cut


def format_of(name: str, head: bytes, field: str, column: str) -> Found:
    """Return the format of a file that is not compressed.

    name: of the file. head: its first HEAD_BYTES. field, column: the key and the column of the
    text, by which JSON lines and tables are known whatever the name.
    """
    family = family_of(name)
    if head.startswith(b"PAR1") or (family == "parquet" and foreign(name, head) is None):
        return Found("parquet")
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return Found("zip")
    if _is_tar(name, head):
        return Found("tar")
    text = _text(head)
    if family in ("json", "json lines"):
        return Found(_json_format(family, text, is_cut=len(head) == HEAD_BYTES))
    return _text_format(family, text, is_cut=len(head) == HEAD_BYTES, field=field, column=column)


def _text_format(family: str | None, text: str, *, is_cut: bool, field: str, column: str) -> Found:
    layout = _layout(text, is_cut)
    if layout.is_whole:
        objects = [value for value in layout.values if isinstance(value, dict)]
        has_field = any(isinstance(find_field(value, field), str) for value in objects)
        if not layout.values:
            has_field = re.search(re.escape(json.dumps(field)) + r'\s*:\s*"', text) is not None
        what = "JSON lines" if layout.format == "json lines" else "JSON"
        # Where the name says nothing, any objects are JSON: a wrong field is an error then.
        if family is None or has_field:
            note = f"holds {what}: each object is a document, its text under {field!r}"
            return Found(layout.format, note)
        if family == "text":
            keys = f" ({keys_of(objects[0])})" if objects else ""
            note = (
                f"holds {what} without a string under {field!r}{keys}, and is read as text because "
                f"of its name: if that is wrong, give another --field"
            )
            return Found("text", note)
    if family == "table":
        return Found("table")
    if layout.values and isinstance(layout.values[0], dict) and not layout.is_whole:
        return Found("text", "begins with JSON but holds something else, and is read as text")
    names = _names_of_table(text, column, is_cut)
    if column in names:
        return Found("table", f"holds a table: each row is a document, its text under {column!r}")
    if names:
        note = (
            f"looks like a table without a column {column!r} (its columns are "
            f"{', '.join(map(repr, names[:8]))}), and is read as text: if that is wrong, name it "
            f".csv and give another --column"
        )
        return Found("text", note)
    return Found("text")


def is_records(head: bytes) -> bool:
    """Return whether a file that no name describes holds data: JSON lines, Parquet, an archive."""
    if head.startswith((b"PAR1", b"PK\x03\x04")) or packing_of_content(head) or _is_tar("", head):
        return True
    layout = _layout(_text(head), len(head) == HEAD_BYTES)
    return layout.is_whole and all(isinstance(value, dict) for value in layout.values)


def delimiter_of(name: str, head: bytes, column: str) -> str:
    """Return what separates the columns of a table: that by which its first row has the column."""
    text = _text(head)
    usual = "\t" if suffix_of(name) in (".tsv", ".tab") else ","
    for delimiter in (usual, *_DELIMITERS):
        if any(column in row for row in _rows(text, delimiter, 1)):
            return delimiter
    return usual


def _is_tar(name: str, head: bytes) -> bool:
    if head[257:262] != b"ustar" and suffix_of(name) != ".tar":
        return False
    if len(head) >= 512 and not any(head[:512]):
        return True  # a tar of nothing
    try:
        tarfile.TarInfo.frombuf(head[:512], "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True


def _text(head: bytes) -> str:
    return head.removeprefix(codecs.BOM_UTF8).decode(errors="ignore")


def _json_format(family: str, text: str, *, is_cut: bool) -> Format:
    layout = _layout(text, is_cut)
    if text.lstrip().startswith("["):
        return "json"
    if family == "json lines":
        return "json" if re.match(r"\s*\{\s*\n", text) else "json lines"
    # A value that is not seen whole may be of several lines.
    return "json" if layout.is_whole and not layout.values else layout.format


class _Layout(NamedTuple):
    """How JSON is laid out at the beginning of a text."""

    format: Literal["json lines", "json"]
    values: list[Any]
    """The first that are read whole: elements of an array, or objects one after another."""
    is_whole: bool
    """Whether there is nothing else, as far as the text is seen."""


def _layout(text: str, is_cut: bool) -> _Layout:
    """Return how JSON is laid out in a text. is_cut: its end is not seen."""
    layout: Literal["json lines", "json"] = "json lines"
    values: list[Any] = []
    at = _past_space(text, 0)
    if is_array := text.startswith("[", at):
        layout, at = "json", _past_space(text, at + 1)
    while at < len(text) and len(values) < _FIRST_ROWS:
        if not is_array and text[at] != "{":
            return _Layout(layout, values, is_whole=False)
        try:
            value, end = _DECODER.raw_decode(text, at)
        except json.JSONDecodeError as error:
            is_string = error.msg.startswith("Unterminated")
            is_end = is_cut and (is_string or error.pos > len(text) - _CUT_OFF)
            begins = re.compile(r'\{\s*"[^"]*"\s*:').match(text, at)
            if "\n" in text[at : None if is_end else error.pos].rstrip():
                layout = "json"
            return _Layout(layout, values, is_end and bool(values or begins))
        except RecursionError:
            return _Layout(layout, values, is_whole=False)
        values.append(value)
        after = _past_space(text, end)
        if "\n" in text[at:end] or (after < len(text) and "\n" not in text[end:after]):
            layout = "json"  # a value on several lines, or several values on one
        at = after
        if is_array and at < len(text):
            if text[at] != ",":
                is_end = text[at] == "]" and _past_space(text, at + 1) == len(text)
                return _Layout(layout, values, is_end)
            at = _past_space(text, at + 1)
    return _Layout(layout, values, bool(values) and (not is_array or is_cut))


def _past_space(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return match.end() if match else at


def _names_of_table(text: str, column: str, is_cut: bool) -> list[str]:
    """Return the names of the columns if the text looks like a table, else an empty list.

    It has a header of names and at least two rows, all of equally many columns.
    """
    for delimiter in _DELIMITERS:
        if delimiter not in text.partition("\n")[0]:
            continue
        rows = _rows(text, delimiter, _FIRST_ROWS)
        if is_cut and len(rows) < _FIRST_ROWS:
            rows = rows[:-1]
        if (
            len(rows) > 2 - is_cut
            and len(rows[0]) > 1
            and all(map(str.strip if column in rows[0] else _NAME.fullmatch, rows[0]))
            and all(len(row) == len(rows[0]) for row in rows)
            and not all(re.fullmatch(r"[\s:-]*", field) for field in rows[1])  # of Markdown
        ):
            return rows[0]
    return []


def _rows(text: str, delimiter: str, n: int) -> list[list[str]]:
    """Return the first `n` rows of a table, or fewer; empty lines don't count."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        return list(itertools.islice(filter(None, reader), n))
    except csv.Error:
        return []
