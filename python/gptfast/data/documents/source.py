"""A file, or a member of an archive, that can be read again to find the line of an error."""

from __future__ import annotations

import functools
import io
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gptfast.data.documents.archives import tar_members, zip_members
from gptfast.data.documents.pipes import shown
from gptfast.data.documents.unpack import HEAD_BYTES, FileOnDisk, Stream, unpack
from gptfast.data.documents.wanted import LeftOut


@dataclass(frozen=True)
class Source:
    """What a stream of bytes comes from."""

    where: str
    """How messages name it."""
    name: str
    """By whose suffixes its format is guessed where the content doesn't tell."""
    folder: str
    """What it lies in: a folder or an archive."""
    reopen: Callable[[], Stream]
    """Returns its bytes from the beginning, as they are stored."""
    path: Path | None = None
    """The file itself; None for a member of an archive."""

    @classmethod
    def of_file(cls, path: Path) -> Source:
        """Return a file as a source."""
        reopen = functools.partial(FileOnDisk, path)
        return cls(shown(path), path.name, str(path.parent), reopen, path)

    def unpacked(self) -> Stream:
        """Return the decompressed bytes from the beginning."""
        return unpack(self.reopen(), self.name, self.where)[0]

    def members(
        self, kind: Literal["tar", "zip"], stream: Stream
    ) -> Iterator[tuple[Source, Stream]]:
        """Yield the members of this archive that may hold data, each to be read before the next.

        stream: the archive, decompressed. Raises DamagedFileError and UnusableFileError as
        `tar_members` and `zip_members` do.
        """
        for number, (name, member) in enumerate(_members(kind, stream, self.where)):
            head = member.look()
            if len(head) < HEAD_BYTES:  # that is all
                reopen = functools.partial(_of_bytes, head)
            else:
                reopen = functools.partial(self._member_again, kind, number)
            yield Source(f"{self.where}, member {name}", name, self.where, reopen), member

    def _member_again(self, kind: Literal["tar", "zip"], number: int) -> Stream:
        members = _members(kind, self.unpacked(), self.where)
        _, member = next(itertools.islice(members, number, None))
        member.keeps_open = members
        return member


def _members(
    kind: Literal["tar", "zip"], stream: Stream, where: str
) -> Iterator[tuple[str, Stream]]:
    return (tar_members if kind == "tar" else zip_members)(stream, LeftOut(where))


def _of_bytes(data: bytes) -> Stream:
    return Stream(io.BytesIO(data))
