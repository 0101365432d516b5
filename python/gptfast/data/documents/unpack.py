"""Streams of bytes from files and archives, whatever they are compressed with.

The content decides: each format has magic bytes at its beginning. The suffix of the name says only
what a file should have been that has none of them.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import re
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gptfast.data.documents.names import promised_format, unpacked_name
from gptfast.data.documents.notes import say_once
from gptfast.data.documents.records import UnusableFileError
from gptfast.errors import UserError

HEAD_BYTES = 1 << 16
"""How much of the beginning of a file is looked at to find out what it is."""
_BUFFER_BYTES = 1 << 18
_MAX_LAYERS = 8
_USUAL_WINDOW = 1 << 27  # of zstd: more must be asked for


class DamagedFileError(Exception):
    """The file can't be opened or read any further; the message says why."""


class Stream(io.RawIOBase):
    """Bytes to be read once, whose beginning can be looked at before.

    source: a binary file. damage: exceptions of the source that mean that it is truncated or
    corrupt; reading raises DamagedFileError for them.
    """

    def __init__(self, source: Any, damage: tuple[type[Exception], ...] = ()) -> None:
        self._source = source
        self._damage = damage
        self._head: bytes | None = None
        self._error: DamagedFileError | None = None
        self.keeps_open: object = None
        """What must not be closed as long as this stream is read."""

    def readable(self) -> bool:
        """Return True."""
        return True

    def look(self) -> bytes:
        """Return the first HEAD_BYTES, or all before the end or the damage. Call before reading."""
        if self._head is None:
            head = bytearray(HEAD_BYTES)
            n_bytes = 0
            try:
                while n_bytes < HEAD_BYTES and (n := self._fill(memoryview(head)[n_bytes:])):
                    n_bytes += n
            except DamagedFileError as error:
                self._error = error
            self._head = bytes(head[:n_bytes])
        return self._head

    def readinto(self, view: Any) -> int:
        """Fill the beginning of `view`; return the number of bytes, 0 at the end of the file."""
        if self._head:
            n_bytes = min(len(view), len(self._head))
            view[:n_bytes] = self._head[:n_bytes]
            self._head = self._head[n_bytes:]
            return n_bytes
        if self._error is not None:
            raise self._error
        return self._fill(view)

    def close(self) -> None:
        """Close this stream and its source."""
        self._source.close()
        super().close()

    def _fill(self, view: Any) -> int:
        try:
            data = self._source.read1(len(view))
        except self._damage as error:
            raise DamagedFileError(str(error) or type(error).__name__) from error
        view[: len(data)] = data
        return len(data)


class FileOnDisk(Stream):
    """The bytes of a file as they are. Raises DamagedFileError where it can't be read."""

    def __init__(self, path: Path) -> None:
        try:
            super().__init__(path.open("rb", buffering=0))
        except OSError as error:
            raise DamagedFileError(error.strerror or str(error)) from error
        self.path = path
        self.position = 0
        """How many bytes have been read. (A tell() for each document takes longer than reading.)"""

    def seekable(self) -> bool:
        """Return True."""
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go to an offset, and return it as a number of bytes from the beginning."""
        self._head = b""
        self.position = self._source.seek(offset, whence)
        return self.position

    def tell(self) -> int:
        """Return the offset in bytes."""
        return self.position - len(self._head or b"")

    def _fill(self, view: Any) -> int:
        try:
            n_bytes: int = self._source.readinto(view)
        except OSError as error:
            raise DamagedFileError(error.strerror or str(error)) from error
        self.position += n_bytes
        return n_bytes


def unpack(
    stream: Stream, name: str, where: str, memory_limit: int | None = None
) -> tuple[Stream, str]:
    """Return the decompressed stream, and the name without the endings of the packings.

    name: of the file. where: how messages name it. memory_limit: bytes that the window of a .zst
    file may take. Raises DamagedFileError for a file of 0 bytes whose name promises more,
    UnusableFileError for a window beyond the limit, UserError if a library is missing.
    """
    for _ in range(_MAX_LAYERS):
        packing = _packing(stream.look(), name)
        if not packing:
            return stream, name
        stream = _UNPACKERS[packing](stream, where, memory_limit)
        name = unpacked_name(name)
    raise DamagedFileError(f"it is compressed more than {_MAX_LAYERS} times")


def packing_of_content(head: bytes) -> str:
    """Return the packing that the bytes begin as, such as 'gzip', or ''."""
    for packing, magic in _MAGIC.items():
        if magic.match(head):
            return packing
    return ""


def _packing(head: bytes, name: str) -> str:
    promised = promised_format(name)
    if promised and not head:
        raise DamagedFileError("it has 0 bytes, but even an archive of nothing has a header")
    if promised == "lz4" and _SKIPPABLE.match(head):  # a frame that zstd allows, too
        return promised
    return packing_of_content(head)


_SKIPPABLE = re.compile(rb"[\x50-\x5f]\x2a\x4d\x18")
_MAGIC = {
    "gzip": re.compile(rb"\x1f\x8b\x08"),
    "zstd": re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18"),
    "bzip2": re.compile(rb"BZh[1-9](1AY&SY|\x17rE8P\x90)"),
    "xz": re.compile(rb"\xfd7zXZ\x00|\x5d\x00\x00"),  # .xz, .lzma
    "lz4": re.compile(rb"\x04\x22\x4d\x18"),
}


def _gzip(stream: Stream, where: str, memory_limit: int | None) -> Stream:
    return Stream(gzip.GzipFile(fileobj=_buffered(stream)), (OSError, EOFError, zlib.error))


def _bzip2(stream: Stream, where: str, memory_limit: int | None) -> Stream:
    return Stream(_Joined(stream, bz2.BZ2Decompressor), (OSError, EOFError))


def _xz(stream: Stream, where: str, memory_limit: int | None) -> Stream:
    return Stream(_Joined(stream, lzma.LZMADecompressor), (lzma.LZMAError, EOFError))


class _Joined:
    """Decompresses streams that follow one another, with padding of NULs between them or not.

    bz2.BZ2File and lzma.LZMAFile take anything else after a stream as the end of the file.
    """

    def __init__(self, file: Stream, new: Callable[[], Any]) -> None:
        """Read from `file`. new: returns a decompressor for one stream, as bz2 and lzma have."""
        self._file, self._new, self._one = file, new, new()

    def read1(self, n_bytes: int) -> bytes:
        """Return at most `n_bytes`, none at the end. Raise EOFError where a stream is cut off."""
        while True:
            if self._one.eof:
                packed = self._one.unused_data.lstrip(b"\x00")
                while not packed:
                    if not (data := self._file.read(_BUFFER_BYTES)):
                        return b""
                    packed = data.lstrip(b"\x00")
                self._one = self._new()
            elif not self._one.needs_input:
                packed = b""
            elif not (packed := self._file.read(_BUFFER_BYTES) or b""):
                raise EOFError("it ends before its end is marked")
            if unpacked := self._one.decompress(packed, n_bytes):
                return bytes(unpacked)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _lz4(stream: Stream, where: str, memory_limit: int | None) -> Stream:
    try:
        import lz4.frame
    except ImportError as error:
        raise needs_library(where, error) from error
    return Stream(lz4.frame.LZ4FrameFile(_buffered(stream)), (OSError, EOFError, RuntimeError))


def _zstd(stream: Stream, where: str, memory_limit: int | None) -> Stream:
    """Return the decompressed stream, by the standard library or its backport before Python 3.14.

    The memory of a window of up to 2 GiB (`zstd --long=31`) is taken, and said before.
    """
    try:
        if sys.version_info >= (3, 14):
            from compression import zstd
        else:
            from backports import zstd
    except ImportError as error:
        raise needs_library(where, error) from error
    frame = _zstd_frame(stream.look())
    if _has_dictionary(frame):
        raise UnusableFileError(
            "is compressed with a dictionary: unpack it first with `zstd -d -D DICTIONARY`"
        )
    window = _zstd_window(frame)
    if memory_limit is not None and window > max(memory_limit, _USUAL_WINDOW):
        raise UnusableFileError(
            f"takes {window:,} bytes of memory to read, the window of its zstd, more than the "
            f"memory_limit of {memory_limit:,}: raise it, or compress the file again without --long"
        )
    if window > _USUAL_WINDOW:
        say_once(f"{where} takes {window / 1e6:,.0f} MB of memory to read, the window of its zstd")
    options: Any = {zstd.DecompressionParameter.window_log_max: 31}
    file = zstd.ZstdFile(_buffered(stream), options=options)
    return Stream(file, (OSError, EOFError, zstd.ZstdError))


def _zstd_frame(head: bytes) -> bytes:
    """Return the beginning of the first frame with content (RFC 8878, section 3.1)."""
    while _SKIPPABLE.match(head):
        head = head[8 + int.from_bytes(head[4:8], "little") :]
    return head if len(head) >= 6 and head.startswith(b"\x28\xb5\x2f\xfd") else b""


def _has_dictionary(frame: bytes) -> bool:
    """Return whether the frame names a dictionary, without which it can't be read."""
    if not frame:
        return False
    at = 5 if frame[4] & 0x20 else 6
    return any(frame[at : at + (0, 1, 2, 4)[frame[4] & 3]])


def _zstd_window(frame: bytes) -> int:
    """Return the bytes that the frame looks back over (RFC 8878, section 3.1.1.1.2)."""
    if not frame or frame[4] & 0x20:
        return 0  # a frame without a window descriptor holds its whole content
    base = 1 << (10 + (frame[5] >> 3))
    return base + (base >> 3) * (frame[5] & 7)


_UNPACKERS: dict[str, Callable[[Stream, str, int | None], Stream]] = {
    "gzip": _gzip, "zstd": _zstd, "bzip2": _bzip2, "xz": _xz, "lz4": _lz4
}  # fmt: skip


def _buffered(stream: Stream) -> io.BufferedReader:
    return io.BufferedReader(stream, _BUFFER_BYTES)


def needs_library(where: str, error: ImportError) -> UserError:
    """Return the error for a file that needs a library which is not installed."""
    return UserError(f"reading {where} needs a library ({error}): pip install 'gptfast[files]'")
