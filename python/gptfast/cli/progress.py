"""What a user sees while a tokenizer is trained, or files are read."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.status import Status


@contextmanager
def show_training(wanted: bool, left_out: list[str]) -> Iterator[Callable[[str, int, int], None]]:
    """A line on stderr, if that is a terminal; the function that is told (stage, done, total).

    Of the stage "left out", with the number of pre-tokens and their highest count, a sentence is
    appended to `left_out`.
    """
    line: AbstractContextManager[Status | None] = nullcontext()
    if wanted and sys.stderr.isatty():
        from rich.console import Console

        line = Console(stderr=True).status("training a tokenizer")
    with line as status:

        def tell(stage: str, done: int, total: int) -> None:
            if stage == "left out":
                left_out.append(
                    f"memory_limit leaves no room for {done:,} distinct pre-tokens that occur at "
                    f"most {total:,} times each: they were left out"
                )
            elif status is not None and stage == "counting":
                status.update(f"counting pre-tokens: {done / 1e6:,.0f} MB")
            elif status is not None:
                status.update(f"merging: {done:,} of {total:,}")

        yield tell


@contextmanager
def show_bytes(what: str, total: int | None, wanted: bool) -> Iterator[Callable[[int], None]]:
    """A bar on stderr, if that is a terminal; the function that moves it to so many bytes.

    total: the bytes of all the work; None if nobody knows.
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
