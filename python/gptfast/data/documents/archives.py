"""The files in tar and zip archives, as streams, one after another in the order of the archive."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import BinaryIO, TypeAlias

from gptfast.data.documents.records import UnusableFileError
from gptfast.data.documents.unpack import DamagedFileError, FileOnDisk, Stream
from gptfast.data.documents.wanted import LeftOut, is_about, is_data, is_hidden

_DAMAGE = (OSError, EOFError)

# What is a zip file only by its packing, by a name that it contains.
_DOCUMENTS = {
    "word/document.xml": ("a Word file", "extract its text first with `pandoc -t plain`"),
    "xl/workbook.xml": ("an Excel workbook", "save its sheet as CSV"),
    "xl/workbook.bin": ("an Excel workbook", "save its sheet as CSV"),
    "Index/Document.iwa": ("a Pages, Numbers or Keynote file", "export its text first"),
    "ppt/presentation.xml": ("a PowerPoint file", "extract its text first"),
    "mimetype": (
        "an OpenDocument file or an e-book",
        "extract its text first with `pandoc -t plain`",
    ),
    "META-INF/MANIFEST.MF": ("a Java archive", "expected text"),
}


class _Header(tarfile.TarInfo):
    """A header of a tar. Where there is none, `tarfile` itself takes it for the archive's end."""

    @classmethod
    def fromtarfile(cls, tarfile_: tarfile.TarFile) -> _Header:
        """Return the next header. Raise EOFHeaderError for a block of zeros, which ends a tar."""
        try:
            return super().fromtarfile(tarfile_)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise
        except tarfile.EmptyHeaderError as error:  # type: ignore[attr-defined]
            raise tarfile.ReadError("it ends before its end is marked") from error
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(str(error)) from error


Members: TypeAlias = "Iterator[tuple[str, Stream | UnusableFileError]]"
"""Names of the files in an archive, each with its content, or why it can't be read."""


def tar_members(stream: Stream, left_out: LeftOut) -> Members:
    """Yield the name and the content of each file of a tar that may hold data.

    Members are read in one pass: each must be read before the next is asked for. Raises
    DamagedFileError where the archive is truncated or corrupt, UnusableFileError if another follows
    it in the file.
    """
    reader = io.BufferedReader(stream, 1 << 18)
    try:
        with tarfile.open(fileobj=reader, mode="r|", tarinfo=_Header) as tar:
            while (member := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # it grows with the archive
                if member.isdir():
                    continue
                file = tar.extractfile(member) if member.isreg() else None
                if file is None:
                    left_out.add("other", member.name)  # a link or a device
                else:
                    content = Stream(file, (tarfile.TarError, *_DAMAGE))
                    if _is_wanted(member.name, content.look, left_out):
                        yield member.name, content
            assert tar.fileobj is not None  # as it is not closed
            while data := tar.fileobj.read(1 << 20):
                if data.strip(b"\x00"):
                    raise UnusableFileError(
                        "has more after its end: if archives were joined, unpack them first with "
                        "`tar --ignore-zeros -x`"
                    )
    except (tarfile.TarError, *_DAMAGE) as error:
        raise DamagedFileError(str(error) or type(error).__name__) from error


def zip_members(stream: Stream, left_out: LeftOut) -> Members:
    """Yield the name of each file of a zip archive that may hold data, and its content or an error.

    The error is that of a member that is encrypted, corrupt or packed in an unknown way. Raises
    DamagedFileError for a damaged archive, UnusableFileError for Word files and others that are zip
    archives of something else.
    """
    damage = (zipfile.BadZipFile, zlib.error, *_DAMAGE)
    with on_disk(stream) as file:
        try:
            with zipfile.ZipFile(file) as archive:
                _check_alone(archive, file)
                yield from _members(archive, damage, left_out)
        except damage as error:
            raise DamagedFileError(str(error) or type(error).__name__) from error


def _members(
    archive: zipfile.ZipFile, damage: tuple[type[Exception], ...], left_out: LeftOut
) -> Members:
    members = [member for member in archive.infolist() if not member.is_dir()]
    _check_zip([member.filename for member in members])
    for member in members:
        try:
            content = Stream(archive.open(member), damage)
        except (RuntimeError, zipfile.BadZipFile) as error:  # also of an unknown packing
            name, is_encrypted = member.filename, member.flag_bits & 0x1
            what = "encrypted" if is_encrypted else f"corrupt or packed in an unknown way ({error})"
            if _is_wanted(name, lambda: b"", left_out):
                yield name, UnusableFileError(f"is {what}: unpack it first with `7z x`")
            continue
        with content:
            if _is_wanted(member.filename, content.look, left_out):
                yield member.filename, content


def _check_alone(archive: zipfile.ZipFile, file: BinaryIO) -> None:
    """Raise UnusableFileError if the file has more before or after the archive."""
    first = min((member.header_offset for member in archive.infolist()), default=archive.start_dir)
    file.seek(-22 - len(archive.comment), os.SEEK_END)
    if first > 0 or file.read(4) != b"PK\x05\x06":
        raise UnusableFileError(
            "has more before or after its archive: if archives were joined, give them one by one"
        )


def _check_zip(names: list[str]) -> None:
    for name, (what, remedy) in _DOCUMENTS.items():
        if name in names:
            raise UnusableFileError(f"is {what}: {remedy}")
    if names and all(name.endswith(".npy") for name in names):
        raise UnusableFileError("is an archive of NumPy arrays: decode ids to text first")
    if any(name.endswith("/data.pkl") for name in names):
        raise UnusableFileError("is a checkpoint of PyTorch: expected text")


def _is_wanted(name: str, look: Callable[[], bytes], left_out: LeftOut) -> bool:
    parts = name.replace("\\", "/").split("/")
    if is_hidden(parts):
        left_out.add("hidden", name)
    elif is_about(parts[-1]):
        left_out.add("about", name)
    elif not is_data(parts[-1], look):
        left_out.add("other", name)
    else:
        return True
    return False


@contextmanager
def on_disk(stream: Stream) -> Iterator[BinaryIO]:
    """Open a file with the content of a stream, for a format that is read in any order.

    It is the file itself, or a temporary one if the stream is compressed or in an archive.
    """
    if isinstance(stream, FileOnDisk):
        stream.seek(0)
        yield io.BufferedReader(stream)
        return
    with tempfile.TemporaryFile() as file:
        shutil.copyfileobj(stream, file, 1 << 20)
        file.seek(0)
        yield file
