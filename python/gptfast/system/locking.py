"""Allow one run at a time in a folder."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from gptfast.errors import UserError


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Hold an exclusive lock on a folder. The system releases it when the process ends.

    On a file system without locks, this locks nothing. Raises UserError if another run holds the
    lock, or if the folder can't be locked.
    """
    lock = FileLock(folder / ".lock", timeout=0, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout as error:
        raise UserError(
            f"another run is writing into {folder}: wait until it ends, or choose another --out"
        ) from error
    except OSError as error:
        if error.errno in (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK):
            yield
            return
        raise UserError(f"can't lock {folder} ({error}): choose another --out") from error
    try:
        yield
    finally:
        if os.name != "nt":  # on Windows, release deletes the file
            Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()
