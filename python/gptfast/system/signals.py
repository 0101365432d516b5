"""Ctrl-C and SIGTERM as a wish that the loop can heed when it is in a good place."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType


@dataclass
class Stop:
    """Whether a signal came. Without a lock, on which a second signal's handler would wait."""

    is_wanted: bool = False


@contextmanager
def stop_signal() -> Iterator[Stop]:
    """What SIGINT or SIGTERM sets, instead of ending the process in the middle of a step.

    The second SIGINT raises KeyboardInterrupt as usual.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # only the main thread may handle signals
        return

    def handle(number: int, frame: FrameType | None) -> None:
        stop.is_wanted = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
