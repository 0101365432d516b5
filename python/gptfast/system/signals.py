"""Turn Ctrl-C, SIGTERM and SIGHUP into a flag that a loop checks between steps."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType


@dataclass
class Stop:
    """Whether a signal arrived. No lock: the handler of a second signal would deadlock on it."""

    is_wanted: bool = False


@contextmanager
def stop_signal() -> Iterator[Stop]:
    """Yield a flag that a signal sets, instead of ending the process within a step.

    The signals are SIGINT, SIGTERM, and SIGHUP, which a closed terminal sends. If SIGHUP is
    ignored, as `nohup` arranges, it stays so. A second SIGINT raises KeyboardInterrupt as usual.
    Outside the main thread, which alone may
    handle signals, the flag is never set.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def handle(number: int, frame: FrameType | None) -> None:
        stop.is_wanted = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    numbers = [signal.SIGINT, signal.SIGTERM]
    hangup = getattr(signal, "SIGHUP", None)  # Windows has none
    if hangup is not None and signal.getsignal(hangup) != signal.SIG_IGN:
        numbers.append(hangup)
    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
