"""Times held against a limit or one another, on a machine that is slower now and then."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

ROUNDS = 20


def processor_seconds(work: Callable[[], object]) -> float:
    """Processor time of `work`, to which other processes add little."""
    start = time.process_time()
    work()
    return time.process_time() - start


def assert_is_below(limit: float, measure: Callable[[], float], tries: int) -> None:
    """One of a few measurements is below the limit: at times the machine itself stands still."""
    measured: list[float] = []
    for _ in range(tries):
        measured.append(measure())
        if measured[-1] < limit:
            return
        time.sleep(1)
    pytest.fail(f"expected less than {limit}, but measured {measured}")


def assert_takes_at_most(
    times: float, as_long_as: Callable[[], object], work: Callable[[], object]
) -> None:
    """`work` takes at most `times` the processor time of `as_long_as`.

    The best of up to twenty each, in turns: if all runs of one came first, a change of clock speed
    could favour one of them. The first round that shows it is enough.
    """
    as_long_as()  # caches are cold
    short: list[float] = []
    long: list[float] = []
    for _ in range(ROUNDS):
        short.append(processor_seconds(as_long_as))
        long.append(processor_seconds(work))
        if min(long) <= times * min(short):
            return
    pytest.fail(f"expected at most {times} times as long as {short} s, but it took {long} s")
