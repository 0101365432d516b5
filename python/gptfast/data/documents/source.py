"""A file, or a member of an archive, that can be read again to find the line of an error."""

from __future__ import annotations

import functools
import io
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gptfast.data.documents.archives import Members, tar_members, zip_members
from gptfast.data.documents.pipes import shown
from gptfast.data.documents.records import UnusableFileError
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

    @classmethod
    def of_file(cls, path: Path) -> Source:
        """Return a file as a source."""
        reopen = functools.partial(FileOnDisk, path)
        return cls(shown(path), path.name, str(path.parent), reopen)

    def unpacked(self) -> Stream:
        """Return the decompressed bytes from the beginning."""
        return unpack(self.reopen(), self.name, self.where)[0]

    def members(
        self, kind: Literal["tar", "zip"], stream: Stream
    ) -> Iterator[tuple[Source, Stream | UnusableFileError]]:
        """Yield the members of this archive that may hold data, each to be read before the next.

        stream: the archive, decompressed. Raises DamagedFileError and UnusableFileError as
        `tar_members` and `zip_members` do, and if members are left out and no other is there.
        """
        left_out = LeftOut(self.where)
        number = -1
        for number, (name, member) in enumerate(_members(kind, stream, left_out)):
            where = f"{self.where}, member {name}".replace("\n", "\\n")
            if isinstance(member, UnusableFileError):
                yield Source(where, name, self.where, self.reopen), member
                continue
            head = member.look()
            if len(head) < HEAD_BYTES:  # that is all
                reopen = functools.partial(_of_bytes, head)
            else:
                reopen = functools.partial(self._member_again, kind, number)
            yield Source(where, name, self.where, reopen), member
        if number < 0 and (sentence := left_out.sentence()):
            raise UnusableFileError(f"has no files to read but {sentence}: unpack it first")
        left_out.say()

    def _member_again(self, kind: Literal["tar", "zip"], number: int) -> Stream:
        members = _members(kind, self.unpacked(), LeftOut(self.where))
        _, member = next(itertools.islice(members, number, None))
        assert isinstance(member, Stream)  # as it has been read before
        member.keeps_open = members
        return member


def _members(kind: Literal["tar", "zip"], stream: Stream, left_out: LeftOut) -> Members:
    return (tar_members if kind == "tar" else zip_members)(stream, left_out)


def _of_bytes(data: bytes) -> Stream:
    return Stream(io.BytesIO(data))
