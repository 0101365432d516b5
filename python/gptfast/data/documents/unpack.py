"""Read a file as a stream of bytes, decompressed if its name ends in .gz or .zst."""

from __future__ import annotations

import gzip
import io
import sys
import zlib
from pathlib import Path
from typing import Any

from gptfast.errors import UserError


class DamagedFileError(Exception):
    """The file can't be opened or read any further; the message says why."""


class UnpackedFile(io.RawIOBase):
    """A file's decompressed bytes.

    Raises DamagedFileError where the file is truncated or corrupt, UserError for a .zst file if
    no library that reads it is installed.
    """

    def __init__(self, path: Path) -> None:
        packing = path.suffix.lower()
        self._damage: tuple[type[Exception], ...] = (OSError, EOFError, zlib.error)
        zstd = _zstd(path) if packing == ".zst" else None
        try:
            self._disk = path.open("rb", buffering=0)
        except OSError as error:
            raise DamagedFileError(error.strerror or str(error)) from error
        self._position = 0  # counted here: a tell() for each document takes longer than reading it
        self._unpacker: Any = None
        if packing == ".gz":
            self._unpacker = gzip.GzipFile(fileobj=self._disk)
        elif zstd is not None:
            self._unpacker = zstd.ZstdFile(self._disk)
            self._damage = (*self._damage, zstd.ZstdError)

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, view: Any) -> int:
        """Fill the beginning of `view`; return the number of bytes, 0 at the end of the file."""
        try:
            if self._unpacker is None:
                n_bytes = self._disk.readinto(view)
                self._position += n_bytes
                return n_bytes
            data = self._unpacker.read1(len(view))
            if not data and self._disk.tell() == 0:  # gzip accepts a file of 0 bytes
                raise EOFError("it has 0 bytes, but even an archive of nothing has a header")
        except self._damage as error:
            raise DamagedFileError(str(error)) from error
        view[: len(data)] = data
        self._position = self._disk.tell()
        return len(data)

    def position(self) -> int:
        """Return how many bytes of the file on disk have been read."""
        return self._position

    def close(self) -> None:
        """Close this stream and the file on disk."""
        self._disk.close()
        super().close()


def _zstd(path: Path) -> Any:
    """Return the standard library's zstd, or its backport before Python 3.14."""
    try:
        if sys.version_info >= (3, 14):
            from compression import zstd
        else:
            from backports import zstd
    except ImportError as error:
        raise UserError(
            f"reading {path} needs a library ({error}): pip install 'gptfast[files]'"
        ) from error
    return zstd
