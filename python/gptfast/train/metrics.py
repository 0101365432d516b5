"""Write measurements to metrics.jsonl, one JSON object per line, and to optional trackers.

TensorBoard and trackio are extras that `log_to` asks for.
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
    """Writer of measurements. Only rank 0 writes.

    metrics.jsonl holds each step once: a run that returns to an earlier step truncates it. Trackers
    are append-only, so undone steps stay in them.
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
        """Drop the lines after step `step`: these steps will be repeated.

        Truncation needs no disk space, so it works on a full disk.
        """
        if not self.is_main or not self.path.exists():
            return
        try:
            lines = self.path.read_bytes().splitlines(keepends=True)
            kept = itertools.takewhile(lambda line: _is_up_to(line, step), lines)
            os.truncate(self.path, sum(map(len, kept)))
        except OSError as error:
            self.say(f"can't shorten {self.path} ({error}): it keeps steps that will be repeated")

    def log(self, step: int, **values: Any) -> None:
        """Append one line. A full disk loses the line, not the run.

        values: numbers, or (nested) lists of numbers. A value that is not finite, such as the
        gradient norm of a step that overflowed in float16, becomes null: JSON has no infinity.
        """
        if not self.is_main:
            return
        unbounded = {
            k: None for k, v in values.items() if isinstance(v, float) and not math.isfinite(v)
        }
        self._append({"step": step, **values, **unbounded})
        numbers = scalars(values)
        for tracker in list(self.trackers):
            self._attempt(tracker, partial(tracker.log, step, numbers))

    def log_sample(self, step: int, text: str) -> None:
        """Append a line with what the model wrote. Trackers get numbers only."""
        if self.is_main:
            self._append({"step": step, "sample": text})

    def close(self) -> None:
        """Flush and close the trackers."""
        for tracker in list(self.trackers):
            self._attempt(tracker, tracker.close)

    def _append(self, line: dict[str, Any]) -> None:
        size = self.path.stat().st_size if self.path.exists() else 0
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            with contextlib.suppress(OSError):
                os.truncate(self.path, size)  # remove a partial line
            if not self.is_full:
                self.say(f"can't write {self.path} ({error}): the run continues without it")
            self.is_full = True

    def _begin(self, name: LogTo, folder: Path) -> None:
        try:
            self.trackers.append(TRACKERS[name](folder))
        except Exception as error:  # whatever its disk or database raises
            self.say(f"{name} can't be started ({error!r}): the run continues without it")

    def _attempt(self, tracker: Tracker, act: Callable[[], None]) -> None:
        """Call `act`; drop the tracker if it fails."""
        try:
            act()
        except Exception as error:  # whatever its disk, database or thread raises
            self.trackers.remove(tracker)
            name = type(tracker).__name__
            self.say(f"{name} failed ({error!r}): the run continues without it")


class Tracker(Protocol):
    """A library that stores measurements and plots them."""

    def log(self, step: int, numbers: dict[str, float]) -> None:
        """Store what was measured after `step` steps."""

    def close(self) -> None:
        """Flush what is still in memory."""


class TensorBoard:
    """Event files in folder/tensorboard."""

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter  # needs the extra, takes two seconds

        # A killed run loses at most 10 seconds of measurements.
        self.writer = SummaryWriter(str(folder / "tensorboard"), flush_secs=10)

    def log(self, step: int, numbers: dict[str, float]) -> None:
        """Queue the numbers for the writer thread."""
        for name, number in numbers.items():
            self.writer.add_scalar(name, number, step)

    def close(self) -> None:
        """Wait for the writer thread."""
        self.writer.close()


class Trackio:
    """trackio's local database (TRACKIO_DIR). The run is named after its folder."""

    def __init__(self, folder: Path) -> None:
        import trackio  # needs the extra

        # Without metrics.jsonl, a run of this name in the database is an older, replaced one.
        goes_on = (folder / "metrics.jsonl").exists()
        self.trackio = trackio
        trackio.init(
            project="gptfast",
            name=str(folder),
            resume="allow" if goes_on else "never",
            embed=False,
        )

    def log(self, step: int, numbers: dict[str, float]) -> None:
        """Queue the numbers for the trackio thread."""
        self.trackio.log(numbers, step=step)

    def close(self) -> None:
        """Wait for the trackio thread."""
        self.trackio.finish()


TRACKERS: dict[LogTo, Callable[[Path], Tracker]] = {"tensorboard": TensorBoard, "trackio": Trackio}


def check_trackers(log_to: Sequence[LogTo]) -> None:
    """Raise UserError if the package of a tracker, which has the tracker's name, is missing."""
    for name in log_to:
        if find_spec(name) is None:
            raise UserError(
                f"log_to has {name!r}, but that package is not installed: pip install {name}"
            )


def scalars(values: dict[str, Any]) -> dict[str, float]:
    """Flatten lists into scalars named by index: {"a": [5, 6]} becomes {"a/0": 5, "a/1": 6}."""
    found: dict[str, float] = {}
    for name, value in values.items():
        if isinstance(value, list):
            found |= scalars({f"{name}/{i}": v for i, v in enumerate(value)})
        else:
            found[name] = value
    return found


def _is_up_to(line: bytes, step: int) -> bool:
    try:
        # The evaluation and the sample at `step` come before the next training step, and will be
        # repeated.
        values = json.loads(line)
        has_happened = values["step"] < step or (values["step"] == step and "loss" in values)
        return bool(has_happened) and line.endswith(b"\n")
    except (ValueError, KeyError, TypeError):
        return False  # cut short when the run was killed
