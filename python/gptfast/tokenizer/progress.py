"""What a user sees while a tokenizer is trained."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.status import Status


@contextmanager
def show_training(wanted: bool) -> Iterator[Callable[[str, int, int], None]]:
    """A line on stderr, if that is a terminal; the function that is told (stage, done, total).

    The stage "left out", with the number of pre-tokens and their highest count, is a warning.
    """
    line: AbstractContextManager[Status | None] = nullcontext()
    if wanted and sys.stderr.isatty():
        from rich.console import Console

        line = Console(stderr=True).status("training a tokenizer")
    with line as status:

        def tell(stage: str, done: int, total: int) -> None:
            if stage == "left out":
                _warn_left_out(done, total)
            elif status is not None and stage == "counting":
                status.update(f"counting pre-tokens: {done / 1e6:,.0f} MB")
            elif status is not None:
                status.update(f"merging: {done:,} of {total:,}")

        yield tell


def _warn_left_out(n_pieces: int, at_most: int) -> None:
    warnings.warn(
        f"memory_limit leaves no room for {n_pieces:,} distinct pre-tokens that occur at most "
        f"{at_most:,} times each: they were left out",
        stacklevel=4,  # whoever called train: this was called from there, by way of Rust
    )
