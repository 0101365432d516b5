"""What the machine can do at most: copying memory, reading a file, and faults of new pages."""

from __future__ import annotations

import mmap
import resource
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

_BYTES = 256 << 20
_PAGE, _HUGE_PAGE = 4096, 2 << 20
_TIMES = 5


def measure(corpus: Path) -> dict[str, float]:
    """Return bytes/s and seconds, each the median of a few times, of one thread."""
    ones = np.ones(_BYTES // 8)
    target = np.ones_like(ones)
    buffer = memoryview(bytearray(1 << 20))

    def read() -> int:
        with corpus.open("rb", buffering=0) as file:
            return sum(iter(lambda: file.readinto(buffer) or 0, 0))

    size = read()  # so that the file is in the page cache
    limits = {
        "copied_bytes_per_second": _BYTES / _seconds(lambda: np.copyto(target, ones)),
        "summed_bytes_per_second": _BYTES / _seconds(ones.sum),
        "read_bytes_per_second": size / _seconds(read),
    }
    if hasattr(mmap, "MADV_HUGEPAGE"):
        small, huge = _fault_seconds(mmap.MADV_NOHUGEPAGE), _fault_seconds(mmap.MADV_HUGEPAGE)
        limits |= {"fault_4kb_seconds": small * _PAGE, "fault_2mb_seconds": huge * _HUGE_PAGE}
    return limits


def _seconds(call: Callable[[], Any]) -> float:
    times = []
    for _ in range(_TIMES):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return median(times)


def _fault_seconds(advice: int) -> float:
    """Return the seconds for a byte of memory that is written for the first time."""
    times = []
    for _ in range(_TIMES):
        memory = mmap.mmap(-1, _BYTES + _HUGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        memory.madvise(advice)
        pages = np.frombuffer(memory, np.uint8)[::_PAGE]
        start = time.perf_counter()
        pages[:] = 1
        times.append(time.perf_counter() - start)
        del pages
        memory.close()
    return median(times) / _BYTES


def usage() -> dict[str, float]:
    """Return what this process has used: page faults, seconds, bytes in huge pages."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "faults": used.ru_minflt + used.ru_majflt,
        "user_seconds": used.ru_utime,
        "system_seconds": used.ru_stime,
        "huge_bytes": _huge_bytes(),
    }


def _huge_bytes() -> int:
    try:
        rollup = Path("/proc/self/smaps_rollup").read_text()
    except OSError:  # another system than Linux, or an old one
        return 0
    return int(rollup.partition("AnonHugePages:")[2].split()[0]) * 1024
