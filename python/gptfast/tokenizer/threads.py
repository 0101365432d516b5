"""How many threads to use."""

from __future__ import annotations

import os

from gptfast.errors import UserError


def thread_count(n_threads: int | None) -> int:
    """Return `n_threads`; for None, the number of cores that this process may use.

    Raises UserError if it is less than 1.
    """
    if n_threads is None:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else _all_cores()
    if n_threads < 1:
        raise UserError(f"n_threads is {n_threads}: expected at least 1")
    return n_threads


def _all_cores() -> int:
    return os.cpu_count() or 1
