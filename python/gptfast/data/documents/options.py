"""The options for reading files, shared by commands and functions."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from typing import ClassVar, Literal

from gptfast.data.documents.separator import unescape
from gptfast.errors import UserError
from gptfast.tokenizer.checks import check_between, check_choice, check_kind
from gptfast.tokenizer.rust import thread_count

_LONGEST_SHARE = 16
_SIZE = re.compile(r"(\d+) ?([kMG]?)B?", re.IGNORECASE)
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9}


@dataclass(frozen=True, kw_only=True)
class TextOptions:
    """Where the text is in files."""

    field: str = "text"
    """The key of the text in JSON; meta.text for the key text inside meta."""
    column: str = "text"
    """The column of the text in CSV, TSV and Parquet files, and in data sets."""
    document_separator: str | None = None
    r"""Text between the documents inside a plain text file, with escapes such as \n\n\n; empty if
    a file is one document. By default the text of the tokenizer's end-of-text token."""

    def __post_init__(self) -> None:
        """Raise UserError for a value that can't be used."""
        check_kind("field", self.field, str, "the key of the text")
        check_kind("column", self.column, str, "the name of the text's column")
        if self.document_separator is not None:
            kind = "the text between two documents"
            check_kind("document_separator", self.document_separator, str, kind)
            unescape(self.document_separator)

    def to_read(self) -> ReadOptions:
        """Return the options for reading that have these, and defaults."""
        return ReadOptions(
            field=self.field, column=self.column, document_separator=self.document_separator
        )


@dataclass(frozen=True, kw_only=True)
class ReadOptions(TextOptions):
    """How to read documents from files."""

    errors: Literal["strict", "replace"] = "strict"
    """Whether bytes that aren't UTF-8 are an error or become U+FFFD."""
    on_error: Literal["raise", "skip"] = "raise"
    """What to do with a document that can't be read or encoded: stop, or leave it out, count it
    and name it in a file beside the shards."""
    n_threads: int | None = None
    """Threads to use; all cores by default."""
    memory_limit: int | str | None = None
    """Memory to stay below while working on the text: bytes, or a size such as 600MB or 2GB."""

    separator_is_given: ClassVar[bool] = True
    """Whether a separator is the user's own, which should be found."""

    def __post_init__(self) -> None:
        """Raise UserError for a value that can't be used."""
        super().__post_init__()
        check_choice("errors", self.errors, ("strict", "replace"))
        check_choice("on_error", self.on_error, ("raise", "skip"))
        thread_count(self.n_threads)
        if (limit := self.memory_bytes) is not None:
            check_between("memory_limit", limit, 1, sys.maxsize)

    @property
    def separator(self) -> bytes:
        """What separates the documents in a plain text file, without escapes; b"" for nothing."""
        return unescape(self.document_separator or "").encode()

    @property
    def shown_separator(self) -> str:
        """The separator in one line, for messages."""
        return repr(self.separator.decode())[1:-1]

    def separated_by(self, eos: str | None) -> ReadOptions:
        """Return these options with the default separator of a tokenizer whose eos has this name.

        A backslash in the name stands for itself.
        """
        if self.document_separator is not None:
            return self
        given = vars(self) | {"document_separator": (eos or "").replace("\\", "\\\\")}
        return _WithDefaultSeparator(**given)

    @property
    def memory_bytes(self) -> int | None:
        """`memory_limit` in bytes; None for no limit."""
        if not isinstance(self.memory_limit, str):
            return self.memory_limit
        match = _SIZE.fullmatch(self.memory_limit)
        if match is None:
            raise UserError(
                f"memory_limit is {self.memory_limit!r}: expected a size such as 600MB or 2GB"
            )
        number, unit = match.groups()
        return int(number) * _UNITS[unit.upper()]

    @property
    def longest_uncut(self) -> int | None:
        """The most bytes in a row without a place to cut that fit the limit; None for any."""
        return None if self.memory_bytes is None else self.memory_bytes // _LONGEST_SHARE


@dataclass(frozen=True, kw_only=True)
class _WithDefaultSeparator(ReadOptions):
    """Options whose separator is a tokenizer's, which a file need not have."""

    separator_is_given: ClassVar[bool] = False
