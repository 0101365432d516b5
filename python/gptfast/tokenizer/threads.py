"""The number of threads to use."""

from __future__ import annotations

from gptfast.system.cpu import n_cores
from gptfast.tokenizer.checks import check_between

_MAX_THREADS = 1024  # each allocates its own tables


def thread_count(n_threads: int | None) -> int:
    """Return `n_threads`; for None, the number of cores that this process may use.

    Raises UserError unless it is an int from 1 to 1,024.
    """
    if n_threads is None:
        return n_cores()
    check_between("n_threads", n_threads, 1, _MAX_THREADS)
    return n_threads
