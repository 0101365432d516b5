"""What a run shows while it goes: a live bar on a terminal, plain lines in a pipe."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

SECONDS_BETWEEN_LINES = 10.0
"""In a pipe, at most one line of progress in this time."""


class Display:
    """Shows steps, losses and messages. A context manager: the bar is removed at the end."""

    def __init__(self, max_steps: int, console: Console) -> None:
        self.console = console
        self.max_steps = max_steps
        self.bar = Progress(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(),
            TextColumn("{task.fields[state]}"),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=console,
            transient=True,
        )
        self.task = self.bar.add_task("train", total=max_steps, state="")
        self.begin(0)

    def __enter__(self) -> Display:
        if self.console.is_terminal:
            self.bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.bar.stop()

    def begin(self, step: int) -> None:
        """The run starts, or goes on, after `step` steps."""
        self.first_step = step
        self.last_line = self.start = time.monotonic()
        self.bar.reset(self.task, completed=step)

    def message(self, text: str) -> None:
        """One line that stays."""
        self.console.print(text)

    def step(self, step: int, loss: float, tokens_per_second: float) -> None:
        """`step` steps are done; `loss` is the mean since the last call, in nats per token."""
        state = f"loss {loss:.3f}  {tokens_per_second:,.0f} tokens/s"
        if self.console.is_terminal:
            self.bar.update(self.task, completed=step, state=state)
            return
        now = time.monotonic()
        if now - self.last_line >= SECONDS_BETWEEN_LINES:
            self.last_line = now
            left = (now - self.start) / (step - self.first_step) * (self.max_steps - step)
            self.message(f"step {step}/{self.max_steps}  {state}  {left:.0f} s left")
