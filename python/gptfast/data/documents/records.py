"""What the readers of JSON, tables and Parquet yield: documents with their places, or errors."""

from __future__ import annotations

from typing import TypeAlias

Record: TypeAlias = "tuple[int, bytes | Exception]"
"""The number of a document's line, row or value, and its UTF-8, or why there is none.

After a BadRecordError reading goes on; a DamagedFileError or an UnusableFileError is the last.
"""

CONVERT = (
    "convert it from its encoding, for example with `iconv -f WINDOWS-1252 -t UTF-8`, or set "
    "errors to 'replace'"
)
"""What to do about text that is not UTF-8."""


class BadRecordError(Exception):
    """The document can't be used; the message says why, such as "is null: expected a string"."""


class UnusableFileError(Exception):
    """Nothing in the file can be used, or nothing more; the message says why."""
