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
    if json_format := _json_in(text, is_cut):
        objects = _objects_in(text, is_cut)
        has_field = any(isinstance(find_field(o, field), str) for o in objects)
        if not objects:
            has_field = re.search(re.escape(json.dumps(field)) + r'\s*:\s*"', text) is not None
        what = "JSON lines" if json_format == "json lines" else "JSON"
        # Where the name says nothing, any objects are JSON: a wrong field is an error then.
        if family is None or has_field:
            note = f"holds {what}: each object is a document, its text under {field!r}"
            return Found(json_format, note)
        if family == "text":
            keys = f" ({keys_of(objects[0])})" if objects else ""
            note = (
                f"holds {what} without a string under {field!r}{keys}, and is read as text because "
                f"of its name: if that is wrong, give another --field"
            )
            return Found("text", note)
    if family == "table":
        return Found("table")
    if _has_table(text, column, is_cut):
        return Found("table", f"holds a table: each row is a document, its text under {column!r}")
    return Found("text")


def is_records(head: bytes) -> bool:
    """Return whether a file that no name describes holds data: JSON lines, Parquet, an archive."""
    if head.startswith((b"PAR1", b"PK\x03\x04")) or packing_of_content(head) or _is_tar("", head):
        return True
    return _json_in(_text(head), len(head) == HEAD_BYTES) is not None


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


def _json_in(text: str, is_cut: bool) -> Literal["json", "json lines"] | None:
    """Return how objects are laid out in a text, if it holds nothing else as far as it is seen."""
    if re.match(r"\s*\{", text) is None:
        return "json" if re.match(r"\s*\[\s*\{", text) and _begins(text, is_cut) else None
    if _whole_lines(text, is_cut):
        return "json lines"
    if "\n" not in text.strip():
        return "json lines" if is_cut and _begins(text, is_cut) else None
    return (
        "json"
        if _parsed(text.lstrip().partition("\n")[0]) is None and _begins(text, is_cut)
        else None
    )


def _begins(text: str, is_cut: bool) -> bool:
    """Return whether an object, or an array of them, begins here; its end may be cut off."""
    return bool(_objects_in(text, is_cut)) or (
        is_cut and re.match(r'\s*\[?\s*\{\s*"[^"]*"\s*:', text) is not None
    )


def _objects_in(text: str, is_cut: bool) -> list[dict[str, Any]]:
    """Return the objects in the first lines, or else the one that the text begins with."""
    if objects := _whole_lines(text, is_cut):
        return objects
    try:
        value, _ = json.JSONDecoder().raw_decode(re.sub(r"^\s*\[?\s*", "", text))
    except (ValueError, RecursionError):
        return []
    return [value] if isinstance(value, dict) else []


def _whole_lines(text: str, is_cut: bool) -> list[dict[str, Any]]:
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
