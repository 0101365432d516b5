"""Show progress on stderr during tokenizer training and file reading."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.status import Status


@contextmanager
def show_training(wanted: bool, left_out: list[str]) -> Iterator[Callable[[str, int, int], None]]:
    """Show a status line on stderr if it is a terminal; yield a callback (stage, done, total).

    For the stage "left out", `done` is the number of pre-tokens and `total` their highest count;
    the callback then appends a sentence to `left_out`.
    """
    line: AbstractContextManager[Status | None] = nullcontext()
    if wanted and sys.stderr.isatty():
        from rich.console import Console

        line = Console(stderr=True).status("training a tokenizer")
    with line as status:

        def update(stage: str, done: int, total: int) -> None:
            if stage == "left out":
                left_out.append(
                    f"left out {done:,} distinct pre-tokens that occur at most {total:,} times "
                    f"each: memory_limit is too low for them"
                )
            elif status is not None and stage == "counting":
                status.update(f"counting pre-tokens: {done / 1e6:,.0f} MB")
            elif status is not None:
                status.update(f"merging: {done:,} of {total:,}")

        yield update


@contextmanager
def show_bytes(what: str, total: int | None, wanted: bool) -> Iterator[Callable[[int], None]]:
    """Show a progress bar on stderr if it is a terminal; yield a callback that sets the bytes done.

    total: bytes in all; None if unknown.
    """
    if not (wanted and sys.stderr.isatty()):
        yield lambda done: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn(what), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.update(task, completed=done)
