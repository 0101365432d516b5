"""What a run measured: always in metrics.jsonl, one JSON object per line, appended as it goes.

If asked for, also in TensorBoard or trackio, which are extras.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import os
from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from gptfast.errors import UserError
from gptfast.train.config import LogTo


class Metrics:
    """Where measurements go. Only the main one of several processes keeps any.

    metrics.jsonl has each step once: its lines are kept up to a step when a run goes back to it.
    The trackers only ever get more; what was undone stays in them.
    """

    def __init__(
        self, folder: Path, say: Callable[[str], None], is_main: bool, log_to: Sequence[LogTo] = ()
    ) -> None:
        self.path = folder / "metrics.jsonl"
        self.is_main = is_main
        self.say = say
        self.is_full = False
        self.trackers: list[Tracker] = []
        for name in log_to if is_main else ():
            self._begin(name, folder)

    def go_back_to(self, step: int) -> None:
        """Drop the lines of what happened after `step` steps, which will happen again.

        They are the last ones, and cutting them off needs no room on the disk.
        """
        if not self.is_main or not self.path.exists():
            return
        lines = self.path.read_bytes().splitlines(keepends=True)
        kept = itertools.takewhile(lambda line: _is_up_to(line, step), lines)
        os.truncate(self.path, sum(map(len, kept)))

    def log(self, step: int, **values: Any) -> None:
        """Append one line. A disk that is full costs the line, not the run.

        values: numbers, or lists of them, nested or not. One that isn't finite (the gradient norm
        of a step that overflowed in float16) is null in the file: JSON has no infinity.
        """
        if not self.is_main:
            return
        unbounded = {
            k: None for k, v in values.items() if isinstance(v, float) and not math.isfinite(v)
        }
        size = self.path.stat().st_size if self.path.exists() else 0
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, **values, **unbounded}) + "\n")
        except OSError as error:
            with contextlib.suppress(OSError):
                os.truncate(self.path, size)  # no half line
            if not self.is_full:
                self.say(f"can't write {self.path} ({error}): the run continues without it")
            self.is_full = True
        numbers = scalars(values)
        for tracker in list(self.trackers):
            self._attempt(tracker, partial(tracker.log, step, numbers))

    def close(self) -> None:
        """Have the trackers write what they still hold."""
        for tracker in list(self.trackers):
            self._attempt(tracker, tracker.close)

    def _begin(self, name: LogTo, folder: Path) -> None:
        try:
            self.trackers.append(TRACKERS[name](folder))
        except Exception as error:  # of its disk, its database
            self.say(f"{name} can't be begun ({error!r}): the run continues without it")

    def _attempt(self, tracker: Tracker, act: Callable[[], None]) -> None:
        """Do something with a tracker, which is left out from then on if it fails."""
        try:
            act()
        except Exception as error:  # of its disk, its database, its thread
            self.trackers.remove(tracker)
            name = type(tracker).__name__
            self.say(f"{name} failed ({error!r}): the run continues without it")


class Tracker(Protocol):
    """A library that keeps measurements for its own pictures."""

    def log(self, step: int, numbers: dict[str, float]) -> None:
        """Keep what was measured after `step` steps."""

    def close(self) -> None:
        """Write what is still in memory."""


class TensorBoard:
    """Event files in folder/tensorboard."""

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter  # needs the extra, takes two seconds

        # A run that is killed loses at most so many seconds.
        self.writer = SummaryWriter(str(folder / "tensorboard"), flush_secs=10)

    def log(self, step: int, numbers: dict[str, float]) -> None:
        """Queue the numbers for the writer's thread."""
        for name, number in numbers.items():
            self.writer.add_scalar(name, number, step)

    def close(self) -> None:
        """Wait for the writer's thread."""
        self.writer.close()


class Trackio:
    """trackio's database on this machine (TRACKIO_DIR); the run is named for its folder."""

    def __init__(self, folder: Path) -> None:
        import trackio  # needs the extra

        goes_on = (folder / "metrics.jsonl").exists()  # or is there an older run of this name only?
        self.trackio = trackio
        trackio.init(
            project="gptfast",
            name=str(folder),
            resume="allow" if goes_on else "never",
            embed=False,
        )

    def log(self, step: int, numbers: dict[str, float]) -> None:
        """Queue the numbers for trackio's thread."""
        self.trackio.log(numbers, step=step)

    def close(self) -> None:
        """Wait for trackio's thread."""
        self.trackio.finish()


TRACKERS: dict[LogTo, Callable[[Path], Tracker]] = {"tensorboard": TensorBoard, "trackio": Trackio}


def check_trackers(log_to: Sequence[LogTo]) -> None:
    """Raise UserError if the package of a tracker is missing, which has its name."""
    for name in log_to:
        if find_spec(name) is None:
            raise UserError(
                f"log_to has {name!r}, but that package is not installed: pip install {name}"
            )


def scalars(values: dict[str, Any]) -> dict[str, float]:
    """Numbers as they are; a list's under its name and their index: {"a": [5, 6]} is a/0, a/1."""
    found: dict[str, float] = {}
    for name, value in values.items():
        if isinstance(value, list):
            found |= scalars({f"{name}/{i}": v for i, v in enumerate(value)})
        else:
            found[name] = value
    return found


def _is_up_to(line: bytes, step: int) -> bool:
    try:
        # A look at val happens before the step that follows it, and will be repeated.
        values = json.loads(line)
        has_happened = values["step"] < step or (values["step"] == step and "loss" in values)
        return bool(has_happened) and line.endswith(b"\n")
    except (ValueError, KeyError, TypeError):
        return False  # cut short when the run was killed
