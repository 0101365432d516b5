"""metrics.jsonl: what a run measured, one JSON object per line, appended as it goes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gptfast.fsync import write_text_atomically


class Metrics:
    """The file, whose lines are kept up to a step when a run goes back to it.

    Only the main one of several processes writes it.
    """

    def __init__(self, path: Path, say: Callable[[str], None], is_main: bool) -> None:
        self.path = path
        self.is_main = is_main
        self.say = say
        self.is_full = False

    def go_back_to(self, step: int) -> None:
        """Drop the lines of what happened after `step` steps, which will happen again."""
        if not self.is_main:
            return
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else []
        kept = [line for line in lines if _is_up_to(line, step)]
        write_text_atomically(self.path, "".join(line + "\n" for line in kept))

    def log(self, **values: Any) -> None:
        """Append one line. A disk that is full costs the line, not the run."""
        if not self.is_main:
            return
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(values) + "\n")
        except OSError as error:
            if not self.is_full:
                self.say(f"can't write {self.path} ({error}): the run goes on without it")
            self.is_full = True


def _is_up_to(line: str, step: int) -> bool:
    try:
        # A look at val happens before the step that follows it, and will be repeated.
        values = json.loads(line)
        return bool(values["step"] < step or (values["step"] == step and "loss" in values))
    except (json.JSONDecodeError, KeyError, TypeError):
        return False  # cut short when the run was killed
