"""`gptfast serve` whose engine takes no more steps than a file has bytes.

So a test decides how far a text gets, whatever the speed of the machine. Without the file, the
thread of the engine ends.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from gptfast.cli import cli
from gptfast.sample.engine import Engine
from gptfast.sample.request import Generation
from gptfast.serve.__main__ import main

step = Engine.step
n_steps = 0


def held_step(self: Engine) -> list[Generation]:
    global n_steps
    n_steps += 1
    while n_allowed() < n_steps:
        time.sleep(0.002)
    return step(self)


def n_allowed() -> int:
    try:
        return Path(sys.argv[1]).stat().st_size
    except FileNotFoundError:
        raise SystemExit from None


if __name__ == "__main__":
    Engine.step = held_step  # type: ignore[method-assign]
    sys.exit(cli.run(main, sys.argv[2:]))
