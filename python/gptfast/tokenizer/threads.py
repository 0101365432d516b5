"""How many threads to use."""

from __future__ import annotations

import os

from gptfast.errors import check_at_least


def thread_count(n_threads: int | None) -> int:
    """Return `n_threads`; for None, the number of cores that this process may use.

    Raises UserError if it is no int or less than 1.
    """
    if n_threads is None:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else _all_cores()
    check_at_least("n_threads", n_threads, 1)
    return n_threads


def _all_cores() -> int:
    return os.cpu_count() or 1
