"""Atomic writes, and the cache folder.

A file is either the old or the new one, whole, whatever happens meanwhile.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import stat
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path

from gptfast.errors import UserError

FULL = (errno.ENOSPC, errno.EDQUOT)
"""Numbers of the errors that say that a disk or a quota is full."""


def write_atomically(path: Path, write: Callable[[Path], None], sync_from: int = 0) -> None:
    """Let `write` fill a temporary file beside `path`, flush it to disk, and rename it to `path`.

    sync_from: bytes from which a file that replaces none is flushed. Each flush takes milliseconds.
    After a power failure, a smaller new file may be missing or empty.

    The file has the permissions that the umask leaves a new one, whatever `write` gives it and an
    older one had. Raises OSError. An error that names no file, or the temporary one, is changed to
    name `path`.
    """
    temporary = _temporary(path)
    try:
        temporary.touch()
        mode = stat.S_IMODE(temporary.stat().st_mode)
        write(temporary)
        is_synced = temporary.stat().st_size >= sync_from or path.exists()
        if is_synced:
            _sync(temporary)
        if stat.S_IMODE(temporary.stat().st_mode) != mode:
            temporary.chmod(mode)
        temporary.replace(path)
    except OSError as error:
        names_none = error.errno is not None and error.filename is None
        if names_none or (error.filename == str(temporary) and error.filename2 is None):
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)
    if is_synced:
        _sync(path.parent)


def write_text_atomically(path: Path, text: str) -> None:
    """Write a short text as UTF-8, as `write_atomically` does. Raises OSError."""
    write_atomically(path, lambda temporary: _write_text(temporary, text))


def write_folder_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a folder that does not exist yet, as `write_atomically` does a file."""
    temporary = _temporary(path)
    try:
        temporary.mkdir(parents=True)
        write(temporary)
        for file in temporary.iterdir():
            _sync(file)
        _sync(temporary)
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    _sync(path.parent)


def make_folder(folder: Path, advice: str = "choose another") -> None:
    """Create a folder and its parents unless it exists, and check that it is writable.

    Raises UserError, which ends with `advice`, if it can't be created or written to. A full disk
    remains an OSError.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        if error.errno in FULL:
            raise
        raise UserError(
            f"{folder} can't be written to ({error.strerror}): expected a folder, or a place where "
            f"one can be made; {advice}"
        ) from None


def is_file(path: Path) -> bool:
    """Return whether a file exists. Raises PermissionError if its folder doesn't let us know."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def add_folder(path: Path) -> None:
    """Create a folder, whose parent exists, unless it exists itself."""
    if not path.exists():
        path.mkdir()
        _sync(path.parent)


def remove_leftovers(paths: Iterable[Path], *, sole_writer: bool = False) -> None:
    """Delete temporary files of `paths` that killed processes left behind.

    sole_writer: delete all temporary files, because no other process writes there and this one has
    not begun. (In a container, a new process often has the pid of the killed one, so the pid alone
    can't tell.)
    """
    if os.name == "nt" and not sole_writer:
        return  # on Windows, os.kill always affects the process
    names: dict[Path, set[str]] = defaultdict(set)
    for path in paths:
        names[path.parent].add(path.name)
    for folder, wanted in names.items():
        for match in _temporary_files(folder):
            if match["name"] in wanted and (sole_writer or not _is_alive(int(match["pid"]))):
                (folder / match[0]).unlink(missing_ok=True)


def names_of_leftovers(folder: Path) -> set[str]:
    """Return the names of the files for which there are temporary files in the folder."""
    return {match["name"] for match in _temporary_files(folder)}


def _temporary_files(folder: Path) -> list[re.Match[str]]:
    found = os.listdir(folder) if folder.is_dir() else []
    return [match for name in found if (match := _TEMPORARY.fullmatch(name))]


_TEMPORARY = re.compile(r"\.(?P<name>.+)\.(?P<pid>\d+)\.[0-9a-f]{8}\.tmp", re.DOTALL)


def _temporary(path: Path) -> Path:
    """Return a unique temporary name, because several threads may write the same file."""
    return path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)  # signal 0 only checks whether the process exists
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # another user's process
        return True
    return True


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _sync(path: Path) -> None:
    """Flush a file's bytes, or a folder's entries, to disk."""
    if path.is_dir() and os.name == "nt":
        return  # Windows can't open a folder; its renames are journaled
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def cache_path() -> Path:
    """Return GPTFAST_CACHE if it is set, else the user's cache folder. It may not exist yet."""
    named = os.environ.get("GPTFAST_CACHE")
    if named:
        return Path(os.path.expanduser(named))
    import platformdirs  # imported late: a plain checkout may lack it

    return Path(platformdirs.user_cache_dir("gptfast"))
