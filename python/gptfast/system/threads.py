"""Keep training fast while other programs use the cores.

PyTorch's CPU threads (OpenMP, in GCC's libgomp) wait for one another many times in a step. By
default, a waiting thread spins for milliseconds and keeps its core busy. That is the fastest way to
wait on idle cores. Beside another program, a thread spins for a partner that has lost its core, and
burns the very time that would bring the partner back: one busy program can cut the speed of
training to a thirtieth.

libgomp spins only briefly, and then sleeps, once it manages more threads than there are cores.
`share_cores` uses that: while other programs are busy, it keeps one more team of threads, which
does nothing. The number of threads that compute stays the same, and so do all results, bit by bit.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Container, Iterator
from contextlib import contextmanager
from pathlib import Path

from gptfast.system.cpu import n_cores

SPINNING = ("GOMP_SPINCOUNT", "20000")
"""The variable and the value that `limit_spinning` sets: the rounds that a thread spins before it
sleeps. They are fewer than libgomp's default: enough on idle cores, and less to burn until
`share_cores` notices a busy one."""
_INTERVAL = 0.5
"""Seconds between measurements of how busy the cores are."""
_BUSY, _IDLE = 0.25, 0.1
"""Thresholds in cores that other programs use: start the extra team above the first, end it below
the second."""


def limit_spinning() -> None:
    """Set libgomp's spin count, unless the user has set a policy. Call before PyTorch loads."""
    if not any(name in os.environ for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")):
        os.environ[SPINNING[0]] = SPINNING[1]


@contextmanager
def share_cores() -> Iterator[None]:
    """Within the block, let PyTorch's waiting threads sleep whenever other programs use the cores.

    Do nothing where that can't help: on other systems than Linux, with another OpenMP than libgomp,
    or with fewer threads than cores.
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
    """Return whether this process uses libgomp on Linux with a thread for every core."""
    import torch

    if not Path("/proc/self/maps").is_file() or torch.get_num_threads() < n_cores():
        return False
    return n_cores() > 1 and "libgomp" in Path("/proc/self/maps").read_text(encoding="utf-8")


class CpuTime:
    """Processor time, in seconds: of all on the cores that this process may use, and its own."""

    def __init__(self) -> None:
        self.wall = time.monotonic()
        stat = Path("/proc/stat").read_text(encoding="ascii")
        self.all = busy_seconds(stat, os.sched_getaffinity(0))
        self.own = time.process_time()

    def cores_of_others_since(self, before: CpuTime) -> float:
        """Return how many cores other programs have kept busy, on average."""
        others = (self.all - before.all) - (self.own - before.own)
        return others / max(self.wall - before.wall, 1e-9)


def busy_seconds(stat: str, cores: Container[int]) -> float:
    """Return the seconds that some cores together were not idle, from the text of /proc/stat."""
    ticks = 0
    for line in stat.splitlines():
        if (core := re.match(r"cpu(\d+) ", line)) and int(core[1]) in cores:
            user, nice, system, _idle, _iowait, irq, softirq = map(int, line.split()[1:8])
            ticks += user + nice + system + irq + softirq
    return ticks / os.sysconf("SC_CLK_TCK")


class _Watcher(threading.Thread):
    """A thread that measures how busy the cores are, and starts or ends the extra team."""

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
    """A sleeping team of OpenMP threads. libgomp counts it until the thread that holds it ends."""

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
