"""What a user sees while a tokenizer is trained."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def show_training(wanted: bool) -> Iterator[Callable[[str, int, int], None]]:
    """A line on stderr, if that is a terminal; the function that is told (stage, done, total).

    The stage "left out", with the number of pre-tokens and their highest count, is a warning.
    """
    if not (wanted and sys.stderr.isatty()):

        def warn(stage: str, done: int, total: int) -> None:
            if stage == "left out":
                _warn_left_out(done, total)

        yield warn
        return
    from rich.console import Console

    with Console(stderr=True).status("training a tokenizer") as status:

        def tell(stage: str, done: int, total: int) -> None:
            if stage == "counting":
                status.update(f"counting pre-tokens: {done / 1e6:,.0f} MB")
            elif stage == "left out":
                _warn_left_out(done, total)
            else:
                status.update(f"merging: {done:,} of {total:,}")

        yield tell


def _warn_left_out(n_pieces: int, at_most: int) -> None:
    warnings.warn(
        f"memory_limit leaves no room for {n_pieces:,} distinct pre-tokens that occur at most "
        f"{at_most:,} times each: they were left out",
        stacklevel=4,  # whoever called train: this was called from there, by way of Rust
    )
