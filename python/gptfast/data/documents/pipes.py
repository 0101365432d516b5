"""Pipes as files: standard input, named pipes and `<(command)` are copied to temporary files."""

from __future__ import annotations

import atexit
import hashlib
import os
import shutil
import stat
import sys
import tempfile
from pathlib import Path
from typing import BinaryIO

from gptfast.errors import UserError

_CHUNK_BYTES = 1 << 20
_STDIN = ("-", "/dev/stdin")
_copies: dict[tuple[str, int, int], Path] = {}
_names: dict[Path, str] = {}
_checksums: dict[Path, str] = {}
_folder: list[str] = []


def shown(path: Path) -> str:
    """Return how messages name a file, in one line: by the pipe's name if it is the copy of one."""
    return _names.get(path, str(path)).replace("\n", "\\n")


def checksum_of_pipe(path: Path) -> str | None:
    """Return the SHA-256 of a pipe's copy, in hexadecimal; None for any other file."""
    return _checksums.get(path)


def copy_of_pipe(path: Path) -> Path | None:
    """Return a file with everything that comes from a pipe; None if `path` is no pipe.

    A corpus is read more than once, for example to hash and then to encode it, but a pipe only
    once. The copy lies in the system's folder for temporary files until the process ends. Raises
    UserError if standard input is a terminal or closed, or if the pipe can't be read.
    """
    name = str(path)
    if name in _STDIN:
        if sys.stdin is None or sys.stdin.closed:
            raise UserError(f"standard input was given ({name}), but it is closed")
        try:
            descriptor = sys.stdin.fileno()
        except (OSError, AttributeError) as error:  # as in a notebook
            raise UserError(
                f"standard input was given ({name}), but there is none here: name a file"
            ) from error
        if os.isatty(descriptor):
            raise UserError(
                f"standard input was given ({name}), but it is a terminal: pipe a text into the "
                f"command, or name a file"
            )
        source = os.dup(descriptor)
        name = "standard input"
    else:
        try:
            if not _is_pipe(os.stat(path).st_mode):
                return None
        except (OSError, ValueError):
            return None
        try:
            source = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise UserError(f"{name} is a pipe that can't be read ({error.strerror})") from error
    with open(source, "rb") as pipe:
        info = os.fstat(source)
        key = (name, info.st_dev, info.st_ino)
        # A shell's pipe can be read only once. A named pipe may have a new writer.
        is_new = name != "standard input" and not name.startswith(("/dev/fd/", "/proc/"))
        if is_new or key not in _copies:
            _copies[key] = _copy(pipe, name)
    return _copies[key]


def _is_pipe(mode: int) -> bool:
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)


def _copy(pipe: BinaryIO, name: str) -> Path:
    if not _folder:
        _folder.append(tempfile.mkdtemp(prefix="gptfast-pipes-"))
        atexit.register(shutil.rmtree, _folder[0], ignore_errors=True)
    path = Path(_folder[0], f"{len(_names)}")
    digest = hashlib.sha256()
    try:
        with path.open("wb") as file:
            while data := pipe.read(_CHUNK_BYTES):
                digest.update(data)
                file.write(data)
    except OSError as error:
        error.filename = error.filename or str(path)
        raise
    _names[path], _checksums[path] = name, digest.hexdigest()
    return path
