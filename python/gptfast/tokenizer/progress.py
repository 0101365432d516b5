"""What a user sees while a tokenizer is trained."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def show_training(wanted: bool) -> Iterator[Callable[[str, int, int], None]]:
    """A line on stderr, if that is a terminal; the function that is told (stage, done, total)."""
    if not (wanted and sys.stderr.isatty()):
        yield lambda stage, done, total: None
        return
    from rich.console import Console

    with Console(stderr=True).status("training a tokenizer") as status:

        def tell(stage: str, done: int, total: int) -> None:
            if stage == "counting":
                status.update(f"counting pre-tokens: {done / 1e6:,.0f} MB")
            else:
                status.update(f"merging: {done:,} of {total:,}")

        yield tell
