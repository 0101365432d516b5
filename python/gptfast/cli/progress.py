"""Show progress on stderr: on a terminal a line that changes, elsewhere a new line now and then."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

_SECONDS_BETWEEN_LINES = 10.0

TrainingProgress: TypeAlias = Callable[[str, int, int], object]
"""Takes (stage, done, total): "counting", bytes of text, 0; or "merging", merges, at most."""


@contextmanager
def show_training(
    progress: bool | TrainingProgress, left_out: list[str]
) -> Iterator[TrainingProgress]:
    """Yield what the trainer calls with its progress, which is shown, or handed to `progress`.

    For the stage "left out", `done` is the number of pre-tokens and `total` their highest count;
    this appends a sentence to `left_out`.
    """
    with _shown("training a tokenizer", progress is True) as show:

        def update(stage: str, done: int, total: int) -> None:
            if stage == "left out":
                left_out.append(
                    f"left out {done:,} distinct pre-tokens that occur at most {total:,} times "
                    f"each: memory_limit is too low for them"
                )
            elif callable(progress):
                progress(stage, done, total)
            elif stage == "counting":
                show(f"counting pre-tokens: {done / 1e6:,.0f} MB")
            else:
                show(f"merging: {done:,} of {total:,}")

        yield update


@contextmanager
def _shown(first: str, wanted: bool) -> Iterator[Callable[[str], object]]:
    """Yield what shows a line: in the place of the one before, or at most every ten seconds."""
    if not wanted:
        yield lambda line: None
    elif _is_terminal():
        from rich.console import Console

        with Console(stderr=True).status(first) as status:
            yield status.update
    else:
        yield _Lines().show


@contextmanager
def show_bytes(what: str, total: int | None, wanted: bool) -> Iterator[Callable[[int], None]]:
    """Show how many bytes are done; yield a callback that sets them.

    total: bytes in all; None if unknown.
    """
    if not wanted:
        yield lambda done: None
        return
    if not _is_terminal():
        lines, of = _Lines(), "" if total is None else f" of {total / 1e6:,.0f} MB"
        yield lambda done: lines.show(f"{what}: {done / 1e6:,.0f} MB{of}")
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn(what), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.update(task, completed=done)


def _is_terminal() -> bool:
    return sys.stderr is not None and sys.stderr.isatty()


class _Lines:
    """Prints a line on stderr if the last one is ten seconds old, or the work is."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def show(self, line: str) -> None:
        now = time.monotonic()
        if now - self._last < _SECONDS_BETWEEN_LINES:
            return
        self._last = now
        # The work matters more than its progress: the reader of a pipe may be gone.
        with contextlib.suppress(OSError, ValueError):
            print(line, file=sys.stderr, flush=True)
