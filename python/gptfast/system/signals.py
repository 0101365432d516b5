"""Turn Ctrl-C, SIGTERM and SIGHUP into a flag that a loop checks between steps."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Stop:
    """Whether a signal arrived. No lock: the handler of a second signal would deadlock on it."""

    def __init__(self) -> None:
        self.is_wanted = False
        self._message: str | None = None

    @contextmanager
    def at_once(self, message: str = "") -> Iterator[None]:
        """Raise KeyboardInterrupt(message) within the block, or before it, if a signal arrives.

        For work that would take long and leaves nothing to save.
        """
        self._message = message
        try:
            if self.is_wanted:
                raise KeyboardInterrupt(message)
            yield
        finally:
            self._message = None

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.is_wanted = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if self._message is not None:
            raise KeyboardInterrupt(self._message)


@contextmanager
def stop_signal() -> Iterator[Stop]:
    """Yield a flag that a signal sets, instead of ending the process within a step.

    The signals are SIGINT, SIGTERM, and SIGHUP, which a closed terminal sends. If SIGHUP is
    ignored, as `nohup` arranges, it stays so. A second SIGINT raises KeyboardInterrupt as usual.
    Outside the main thread, which alone may handle signals, the flag is never set.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    numbers = [signal.SIGINT, signal.SIGTERM]
    hangup = getattr(signal, "SIGHUP", None)  # Windows has none
    if hangup is not None and signal.getsignal(hangup) != signal.SIG_IGN:
        numbers.append(hangup)
    before = {number: signal.signal(number, stop._handle) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
