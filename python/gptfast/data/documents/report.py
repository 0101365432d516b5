"""What reading files has come to: how much was read, left out and split."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import IO, Any

from gptfast.cli.units import count
from gptfast.data.documents.block import Place
from gptfast.data.documents.options import ReadOptions
from gptfast.system.files import write_atomically

_MAX_COMPLAINTS = 20
_OFTEN = 3
"""A special token's text is frequent if there are more than 3 of it, and more than 3 per MB."""


@dataclass
class ReadReport:
    """How much has been read, what was left out, and what else a user should know."""

    documents: int = 0
    """Documents read completely."""
    bytes_read: int = 0
    """Bytes read, counted on disk, before decompression."""
    bytes_kept: int = 0
    """Bytes on disk of files that an earlier run has finished, which are not read again."""
    text_bytes: int = 0
    """Bytes of the documents, in UTF-8."""
    skipped: int = 0
    """Lines, rows, documents and ends of files left out because of an error."""
    not_encoded: list[int] = field(default_factory=list)
    """Which documents could not be encoded, counted from 0 among those that an Encoder was given.
    They are skipped as well."""
    complaints: list[str] = field(default_factory=list)
    """Error messages of the first 20 of them."""
    split_files: int = 0
    """Text files with a document separator."""
    split_documents: int = 0
    """Documents in those files."""
    whole_files: int = 0
    """Text files without one."""
    spelled: Counter[str] = field(default_factory=Counter)
    """How often documents spell special tokens, which are encoded as ordinary text."""
    log: Callable[[str], object] | None = field(default=None, repr=False, compare=False)
    """Called with a line of JSON for whatever is left out: file, line or row, reason."""

    def skip(self, complaint: str, place: Place | str) -> None:
        """Count and log something that is left out. place: its own, or the name of its file."""
        self.skipped += 1
        if len(self.complaints) < _MAX_COMPLAINTS:
            self.complaints.append(complaint)
        if self.log is not None:
            where: dict[str, Any] = {"file": place}
            if isinstance(place, Place):
                where = {"file": place.file, place.unit: place.counted()}
            self.log(json.dumps({**where, "reason": complaint}) + "\n")

    def to_json(self) -> str:
        """Return everything but the log, as JSON that `from_json` reads."""
        return json.dumps({f.name: getattr(self, f.name) for f in fields(self) if f.name != "log"})

    @classmethod
    def from_json(cls, text: str) -> ReadReport:
        """Return the report whose `to_json` is `text`."""
        report = cls(**json.loads(text))
        report.spelled = Counter(report.spelled)
        return report

    @classmethod
    def of_all(cls, reports: Iterable[ReadReport]) -> ReadReport:
        """Return the sums of reports of consecutive files."""
        total = cls()
        for report in reports:
            for f in fields(cls):
                if isinstance(f.default, int):
                    setattr(total, f.name, getattr(total, f.name) + getattr(report, f.name))
            total.not_encoded += report.not_encoded
            total.complaints += report.complaints[: _MAX_COMPLAINTS - len(total.complaints)]
            total.spelled.update(report.spelled)
        return total

    def left_out(self, log: Path | None = None) -> str:
        """Describe in one line what was skipped. log: the file that names all of it."""
        first = f", first: {self.complaints[0]}" if self.complaints else ""
        what = "read or encoded" if self.not_encoded else "read"
        named = f"; all are named in {log}" if log else ""
        return f"left out {self.skipped:,} that could not be {what}{first}{named}"

    def notes(self, options: ReadOptions, log: Path | None = None) -> list[str]:
        """Return what to tell the user, in lines: how files were split, what was left out.

        log: the file that names everything that was left out.
        """
        return [
            *self.splits(options),
            *([self.left_out(log)] if self.skipped else []),
            *(f"warning: {line}" for line in (*self.unsplit(options), *self.spells())),
        ]

    def splits(self, options: ReadOptions) -> list[str]:
        """Describe in one line how files were split, if any were."""
        if not self.split_files:
            return []
        files, documents = count(self.split_files, "file"), count(self.split_documents, "document")
        split = f"split {files} into {documents} at {options.shown_separator}"
        if self.whole_files and options.separator_is_given:
            split += f"; {count(self.whole_files, 'text file')} without it stayed whole"
        return [split]

    def unsplit(self, options: ReadOptions) -> list[str]:
        """Warn in one line if the separator that the user gave is in none of the text files."""
        separator = options.separator
        if self.split_files or not (self.whole_files and separator and options.separator_is_given):
            return []
        hint = r" (lines from Windows end in \r\n)" if b"\n" in separator else ""
        return [
            f"the document separator {options.shown_separator} is nowhere in "
            f"{count(self.whole_files, 'text file')}, and each is one document: give the text that "
            f"is between your documents{hint}"
        ]

    def spells(self) -> list[str]:
        """Warn in one line of special tokens that documents spell often, if they do."""
        often = [
            f"{name} {n:,} times"
            for name, n in self.spelled.most_common()
            if n > _OFTEN and n > _OFTEN * self.text_bytes / 1e6
        ]
        if not often:
            return []
        return [
            f"the documents spell {', '.join(often[:5])} in {self.text_bytes / 1e6:,.2f} MB, which "
            f"stays ordinary text: if it marks where documents end, make a line of JSON or a row "
            f"of each (text files are split by --document-separator), otherwise remove it"
        ]


@contextmanager
def skip_log(path: Path) -> Iterator[Callable[[str], object]]:
    """Yield a `ReadReport.log` whose lines are in the file `path` after the block has ended.

    Without any, an older file is deleted. After an error, or if killed, `path` stays as it was.
    """
    with ExitStack() as stack:
        lines: IO[bytes] | None = None

        def log(line: str) -> None:
            nonlocal lines
            if lines is None:
                lines = stack.enter_context(tempfile.TemporaryFile(dir=path.parent))
            lines.write(line.encode())

        yield log
        if lines is None:
            path.unlink(missing_ok=True)
            return
        finished = lines
        finished.seek(0)

        def write(temporary: Path) -> None:
            with temporary.open("wb") as file:
                shutil.copyfileobj(finished, file)

        write_atomically(path, write)
