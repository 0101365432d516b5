"""The spin count of OpenMP's threads in the processes that a benchmark starts."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def no_spin_count() -> Iterator[None]:
    """Within the block, start processes without the spin count that importing gptfast has set."""
    spin_count = os.environ.pop("GOMP_SPINCOUNT", None)
    try:
        yield
    finally:
        if spin_count is not None:
            os.environ["GOMP_SPINCOUNT"] = spin_count
