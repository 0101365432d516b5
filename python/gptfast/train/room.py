"""Check that a run can save its checkpoints, before anything is deleted or trained."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from contextlib import ExitStack
from pathlib import Path

from gptfast.errors import RunError
from gptfast.model.base import LanguageModel
from gptfast.system.files import FULL
from gptfast.train.config import RunConfig
from gptfast.train.optim import optimizer_bytes

_NO_ROOM = (*FULL, errno.EFBIG)


def check_room(config: RunConfig, model: LanguageModel) -> None:
    """Raise RunError if the checkpoints and the best weights can't all be written to config.out.

    The most is needed while a checkpoint is written, beside those that are kept. The checkpoints
    and the best weights that are there count as free, as the run replaces them.
    """
    own = model.stored.own_state(model.state_dict())
    weights = sum(t.numel() * t.element_size() for t in own.values())
    optimizer = optimizer_bytes(config, model)
    n_checkpoints = _most_checkpoints(config)
    needed = n_checkpoints * (weights + optimizer) + weights
    largest = max(weights, optimizer)
    what = f"{n_checkpoints} checkpoints and the best weights need {needed:,} bytes"
    try:
        limit = _largest_file()
        if limit is not None and largest > limit:
            raise RunError(
                f"nothing could be saved in {config.out}: {what}, {largest:,} of them in one file, "
                f"but this process may write files of {limit:,} bytes only: raise `ulimit -f`"
            )
        replaced = _replaced_bytes(config.out, model.stored.weights_file)
        _allocate(config.out, needed - replaced, largest)
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        fewer = "give --keep-checkpoints 1 or " if config.keep_checkpoints > 1 else "choose "
        available = shutil.disk_usage(config.out).free + replaced
        raise RunError(
            f"the run could not be saved in {config.out} ({os.strerror(error.errno)}): {what}, but "
            f"{available:,} are available: free some space, or {fewer}another --out"
        ) from error


def _most_checkpoints(config: RunConfig) -> int:
    """Return how many checkpoints are there at once: those that are kept, and one being written."""
    most = config.keep_checkpoints + 1
    intervals = (config.eval_interval, config.checkpoint_interval or config.eval_interval)
    saved = {step for interval in intervals for step in range(0, config.max_steps, interval)[:most]}
    return min(most, len(saved | {config.max_steps}))


def _allocate(folder: Path, size: int, largest: int) -> None:
    """Raise OSError unless `size` bytes, in files of at most `largest`, fit into the folder."""
    disk = shutil.disk_usage(folder)
    if disk.total and disk.free < size:  # some network disks say 0 of 0
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if not hasattr(os, "posix_fallocate"):
        return
    with ExitStack() as stack:  # a quota shows only when space is taken
        for start in range(0, size, largest):
            file = stack.enter_context(tempfile.TemporaryFile(dir=folder))
            try:
                os.posix_fallocate(file.fileno(), 0, min(largest, size - start))
            except OSError as error:
                if error.errno in _NO_ROOM:
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


def _replaced_bytes(folder: Path, weights_file: str) -> int:
    """Return the size of an older run's checkpoints and best weights, and of no other files."""
    files = [folder / weights_file, *(folder / "training").glob("step-*/*")]
    return sum(file.stat().st_size for file in files if file.is_file())
