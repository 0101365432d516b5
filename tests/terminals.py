"""Read what a program prints on a pseudo-terminal."""

from __future__ import annotations

import os
import select
import time


def until(terminal: int, wanted: str) -> None:
    """Read what the program prints, up to a text; what follows stays for the next call."""
    seen = ""
    ends = time.monotonic() + 120
    while wanted not in seen:
        ready, _, _ = select.select([terminal], [], [], max(0, ends - time.monotonic()))
        assert ready, f"no {wanted!r} in {seen[-500:]!r}"
        seen += os.read(terminal, 1).decode("latin-1")
