"""Times held against a limit or one another, on a machine that is slower now and then."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

FEWEST, MOST = 3, 20  # rounds


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

    The best of three to twenty each, in turns: with few tries, or with those of one after those of
    the other, only one of the two may have met a moment at which the processor is faster.
    """
    short: list[float] = []
    long: list[float] = []
    for _ in range(MOST):
        short.append(processor_seconds(as_long_as))
        long.append(processor_seconds(work))
        if len(long) >= FEWEST and min(long) <= times * min(short):
            return
    pytest.fail(f"expected at most {times} times as long as {short} s, but it took {long} s")
