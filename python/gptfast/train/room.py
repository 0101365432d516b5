"""Check that a run can save its first checkpoint, before anything is deleted or trained."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from gptfast.errors import RunError
from gptfast.model.base import LanguageModel
from gptfast.train.config import RunConfig
from gptfast.train.optim import optimizer_bytes

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def check_room(config: RunConfig, model: LanguageModel) -> None:
    """Raise RunError if the first checkpoint and the best weights can't be written to config.out.

    With config.overwrite, the files of the old run count as free.
    """
    weights = sum(t.numel() * t.element_size() for t in model.state_dict().values())
    sizes = [weights, weights, optimizer_bytes(config, model)]
    needed = f"a checkpoint and the best weights need {sum(sizes):,} bytes"
    try:
        limit = _largest_file()
        if limit is not None and max(sizes) > limit:
            raise RunError(
                f"nothing could be saved in {config.out}: {needed}, {max(sizes):,} of them in one "
                f"file, but this process may write files of {limit:,} bytes only: raise `ulimit -f`"
            )
        freed = _size_of(config.out) if config.overwrite else 0
        _allocate(config.out, sizes, freed)
    except OSError as error:
        if error.errno not in _FULL:
            raise
        available = shutil.disk_usage(config.out).free + freed
        raise RunError(
            f"nothing could be saved in {config.out} ({os.strerror(error.errno)}): {needed}, but "
            f"{available:,} are available: free some space, or choose another --out"
        ) from error


def _allocate(folder: Path, sizes: Sequence[int], freed: int) -> None:
    """Raise OSError unless files of these sizes fit into the folder beside what is there."""
    disk = shutil.disk_usage(folder)
    if disk.total and disk.free + freed < sum(sizes):  # some network disks say 0 of 0
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if not hasattr(os, "posix_fallocate"):
        return
    with ExitStack() as stack:  # a quota shows only when space is taken
        for size in sizes:
            size, freed = max(0, size - freed), max(0, freed - size)
            if not size:
                continue
            file = stack.enter_context(tempfile.TemporaryFile(dir=folder))
            try:
                os.posix_fallocate(file.fileno(), 0, size)
            except OSError as error:
                if error.errno in _FULL:
                    raise
                return  # this disk can't allocate space


def _largest_file() -> int | None:
    """Return the most bytes that this process may write to a file; None if there is no limit."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    return None if limit == resource.RLIM_INFINITY else limit


def _size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
