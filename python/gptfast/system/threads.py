"""Keep training fast while other programs use the cores.

PyTorch's CPU threads (OpenMP, by GCC's libgomp) wait for one another many times in a step, and by
default each waits in a loop that keeps its core busy for milliseconds. On idle cores that is the
fastest way to wait. Where another program runs, a thread waits for a partner that is off the
processor, and burns the very time that would bring the partner back: one busy program can cut the
speed of training to a thirtieth.

libgomp itself waits briefly and then sleeps as soon as it manages more threads than there are
cores. `share_cores` makes use of that: while other programs are busy, it keeps one more team of
threads, which does nothing. The number of threads that compute stays the same, and so do all
results, bit by bit.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_SPIN_COUNT = "20000"
"""Rounds of waiting before a thread sleeps, about a tenth of libgomp's default: enough on idle
cores, and less to burn until `share_cores` has noticed a busy one."""
_INTERVAL = 0.5
"""Seconds between two looks at how busy the cores are."""
_BUSY, _IDLE = 0.25, 0.1
"""Cores that other programs use: above the first the extra team is made, below the second it ends.
"""


def limit_spinning() -> None:
    """Set libgomp's spin count, unless the user has chosen a policy. Call before PyTorch loads."""
    if not any(name in os.environ for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")):
        os.environ["GOMP_SPINCOUNT"] = _SPIN_COUNT


@contextmanager
def share_cores() -> Iterator[None]:
    """Let PyTorch's threads sleep while they wait, whenever other programs use the cores.

    Does nothing where it can't help: on systems other than Linux, with another OpenMP than
    libgomp, or with fewer threads than cores.
    """
    if not can_share():
        yield
        return
    watcher = _Watcher()
    watcher.start()
    try:
        yield
    finally:
        watcher.end()


def can_share() -> bool:
    """Return whether this process computes by libgomp, with a thread on every core, on Linux."""
    import torch

    if not Path("/proc/self/maps").is_file() or torch.get_num_threads() < _n_cores():
        return False
    return _n_cores() > 1 and "libgomp" in Path("/proc/self/maps").read_text(encoding="utf-8")


class CpuTime:
    """Processor time of the whole machine and of this process, in seconds."""

    def __init__(self) -> None:
        self.wall = time.monotonic()
        self.all = busy_seconds(Path("/proc/stat").read_text(encoding="ascii"))
        self.own = time.process_time()

    def cores_of_others_since(self, before: CpuTime) -> float:
        """Return how many cores other programs have kept busy, on average."""
        others = (self.all - before.all) - (self.own - before.own)
        return others / max(self.wall - before.wall, 1e-9)


def busy_seconds(stat: str) -> float:
    """Return the seconds that all cores together were not idle, from /proc/stat's first line."""
    user, nice, system, _idle, _iowait, irq, softirq = map(int, stat.split()[1:8])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


class _Watcher(threading.Thread):
    """Looks at how busy the cores are, and makes or ends the extra team."""

    def __init__(self) -> None:
        super().__init__(name="share-cores", daemon=True)
        self._ended = threading.Event()
        self._team: _Team | None = None

    def run(self) -> None:
        before = CpuTime()
        while not self._ended.wait(_INTERVAL):
            now = CpuTime()
            others, before = now.cores_of_others_since(before), now
            if self._team is None and others > _BUSY:
                self._team = _Team()
            elif others < _IDLE:
                self._end_team()

    def end(self) -> None:
        self._ended.set()
        self.join()
        self._end_team()

    def _end_team(self) -> None:
        if self._team is not None:
            self._team.end()
            self._team = None


class _Team:
    """One more team of OpenMP threads, which sleeps. libgomp counts it until its thread ends."""

    def __init__(self) -> None:
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._hold, name="openmp-team", daemon=True)
        self._thread.start()

    def end(self) -> None:
        self._ended.set()
        self._thread.join()

    def _hold(self) -> None:
        import torch

        torch.ones(1 << 17).add_(1)  # large enough for PyTorch to use all threads
        self._ended.wait()


def _n_cores() -> int:
    return len(os.sched_getaffinity(0))
