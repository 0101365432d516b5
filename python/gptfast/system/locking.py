"""One run at a time in a folder."""

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
    """Keep other runs out of a folder; the system gives back the lock of a process that is killed.

    On a file system without locks it keeps nobody out. Raises UserError if there is a run already.
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
        if os.name != "nt":  # there, releasing it deletes it
            Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()
