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


_FIRST_LINES = 20
DELIMITERS = (",", "\t", ";", "|")


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
        return Found(_json_format(family, text))
    return _text_format(family, text, is_cut=len(head) == HEAD_BYTES, field=field, column=column)


def _text_format(family: str | None, text: str, *, is_cut: bool, field: str, column: str) -> Found:
    first = text.lstrip()[:1]
    if first == "{" and (objects := _objects(text, is_cut)):
        # Where the name says nothing, any objects are JSON lines: a wrong field is an error then.
        if family is None or all(isinstance(find_field(o, field), str) for o in objects):
            note = f"holds JSON lines: each is a document, its text under {field!r}"
            return Found("json lines", note)
        if family == "text":
            note = (
                f"holds JSON lines without a string under {field!r} ({keys_of(objects[0])}), and "
                f"is read as text because of its name: if that is wrong, give another --field"
            )
            return Found("text", note)
    if first == "{" and is_cut and "\n" not in text and _names_field(text, field):
        return Found(
            "json lines", f"holds JSON lines: each is a document, its text under {field!r}"
        )
    if first == "[" and _has_json_array(text, field):
        note = f"holds a JSON array: each element is a document, its text under {field!r}"
        return Found("json", note)
    if family == "table":
        return Found("table")
    if _has_table(text, column, is_cut):
        return Found("table", f"holds a table: each row is a document, its text under {column!r}")
    return Found("text")


def is_records(head: bytes) -> bool:
    """Return whether a file that no name describes holds data: JSON lines, Parquet, an archive."""
    if head.startswith((b"PAR1", b"PK\x03\x04")) or packing_of_content(head) or _is_tar("", head):
        return True
    text = _text(head)
    return text.lstrip()[:1] == "{" and bool(_objects(text, len(head) == HEAD_BYTES))


def delimiter_of(name: str, head: bytes, column: str) -> str:
    """Return what separates the columns of a table: that by which its first row has the column."""
    text = _text(head)
    usual = "\t" if suffix_of(name) in (".tsv", ".tab") else ","
    for delimiter in (usual, *DELIMITERS):
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


def _json_format(family: str, text: str) -> Format:
    text = text.lstrip()
    line, newline, _ = text.partition("\n")
    if text.startswith("["):
        return "json"
    if family == "json lines":
        return "json" if line.strip() == "{" and newline else "json lines"
    if text.startswith("{") and newline and _parsed(line) is None:
        return "json"  # an object on several lines
    return "json lines"


def _names_field(text: str, field: str) -> bool:
    """Return whether the beginning of a long line of JSON has the key, with a string."""
    return re.search(re.escape(json.dumps(field)) + r'\s*:\s*"', text) is not None


def _objects(text: str, is_cut: bool) -> list[dict[str, Any]]:
    """Return the objects in the first lines; an empty list if one of these holds something else."""
    lines = text.split("\n")
    if is_cut:
        lines.pop()
    objects = []
    for line in [line for line in lines if line.strip()][:_FIRST_LINES]:
        value = _parsed(line)
        if value is None:
            return []
        objects.append(value)
    return objects


def _parsed(line: str) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _has_json_array(text: str, field: str) -> bool:
    """Return whether an array begins here, whose first element is an object with the field."""
    begin = re.match(r"\s*\[\s*(?=\{)", text)
    if begin is None:
        return False
    try:
        value, _ = json.JSONDecoder().raw_decode(text, begin.end())
    except (ValueError, RecursionError):
        return False
    return isinstance(find_field(value, field), str)


def _has_table(text: str, column: str, is_cut: bool) -> bool:
    """Return whether the first rows have equally many columns, one of which has the name."""
    if column not in text.partition("\n")[0]:
        return False
    for delimiter in DELIMITERS:
        rows = _rows(text, delimiter, _FIRST_LINES)
        if is_cut and len(rows) < _FIRST_LINES:
            rows = rows[:-1]
        if len(rows) > 1 and len(rows[0]) > 1 and column in rows[0]:
            return all(len(row) == len(rows[0]) for row in rows)
    return False


def _rows(text: str, delimiter: str, n: int) -> list[list[str]]:
    """Return the first `n` rows of a table, or fewer; empty lines don't count."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        return list(itertools.islice(filter(None, reader), n))
    except csv.Error:
        return []
