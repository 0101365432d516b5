"""Show progress during a run: a live panel on a terminal, plain lines in a pipe."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from types import TracebackType

import torch
from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from gptfast.cli.units import duration, flop_rate, gib
from gptfast.model import LanguageModel
from gptfast.model.dropout import eval_mode
from gptfast.system.machine import peak_flops
from gptfast.tokenizer import Tokenizer
from gptfast.train.distributed import World

SECONDS_BETWEEN_LINES = 10.0
"""Shortest time between progress lines in a pipe."""
SAMPLE_LINES = 8
"""Lines of a sample that the panel shows; fixed, so that the panel keeps its height."""
UNKNOWN = "-"
"""Placeholder for a value that has not been measured yet."""

WriteSample = Callable[[LanguageModel, Tokenizer], str]
"""Returns a text that a model in evaluation mode writes."""


class Display:
    """Display of steps, measurements, samples and messages.

    A context manager, which removes the panel at the end. A quiet console shows nothing.
    """

    def __init__(
        self,
        max_steps: int,
        console: Console,
        world: World,
        flops_per_token: int | None = None,
        shows_samples: bool = True,
    ) -> None:
        """flops_per_token: of forward and backward pass; None if they can't be counted."""
        self.max_steps = max_steps
        self.console = console
        self.flops_per_token = flops_per_token
        peak = peak_flops(world.device)
        self.peak_flops = peak * world.size if peak else None
        self.shows_samples = shows_samples
        self.measured = dict.fromkeys(
            ("train loss", "val loss", "learning rate", "best val loss", "gradient norm",
             "peak memory", "speed", "compute"), UNKNOWN,
        )  # fmt: skip
        if flops_per_token is None:
            del self.measured["compute"]
        self.newest_sample: Panel | None = None
        self.begin(0)
        self.live = Live(
            get_renderable=self.panel, console=console, refresh_per_second=4, transient=True
        )

    def __enter__(self) -> Display:
        if self.console.is_terminal and not self.console.quiet:
            self.live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.live.stop()

    def begin(self, step: int) -> None:
        """Start, or restart, the display of a run that has taken `step` steps."""
        self.first_step = self.last_step = step
        self.last_line = self.start = time.monotonic()
        self.time_left = UNKNOWN

    def message(self, text: str) -> None:
        """Print a line that stays on the screen."""
        self.console.print(text)

    def step(
        self,
        step: int,
        *,
        loss: float,
        learning_rate: float,
        grad_norm: float,
        tokens_per_second: float,
        peak_memory: float,
    ) -> None:
        """Show the measurements after `step` steps.

        loss: mean since the last call, in nats per token. peak_memory: in bytes.
        """
        now = time.monotonic()
        self.last_step = step
        # Wall-clock time, which includes evaluations, checkpoints and samples.
        seconds_per_step = (now - self.start) / (step - self.first_step)
        self.time_left = duration(seconds_per_step * (self.max_steps - step))
        speed = f"{tokens_per_second:,.0f} tokens/s"
        self.measured |= {
            "train loss": f"{loss:.4f}",
            "learning rate": f"{learning_rate:.2e}",
            "gradient norm": f"{grad_norm:.3f}",
            "speed": speed,
            "peak memory": gib(peak_memory),
        }
        if self.flops_per_token is not None:
            self.measured["compute"] = self.compute(self.flops_per_token * tokens_per_second)
            speed += f"  {self.measured['compute']}"
        if not self.live.is_started and now - self.last_line >= SECONDS_BETWEEN_LINES:
            self.last_line = now
            self.message(
                f"step {step}/{self.max_steps}  loss {loss:.3f}  lr {learning_rate:.2e}  "
                f"grad norm {grad_norm:.2f}  {speed}  "
                f"{self.measured['peak memory']}  {self.time_left} left"
            )

    def compute(self, flops: float) -> str:
        """Format FLOP/s, with their share of the hardware's peak where that is known.

        The share is the model FLOPs utilization, MFU ("PaLM", Chowdhery et al., 2022, appendix B):
        recomputed activations don't count.
        """
        share = f", {flops / self.peak_flops:.1%} MFU" if self.peak_flops else ""
        return flop_rate(flops) + share

    def evaluation(self, val_loss: float, best_val_loss: float, best_step: int) -> None:
        """Show the current and the best val loss, in nats per token."""
        self.measured |= {
            "val loss": f"{val_loss:.4f}",
            "best val loss": f"{best_val_loss:.4f} at step {best_step:,}",
        }

    def sample(self, step: int, text: str) -> None:
        """Show what the model wrote after `step` steps, unless samples are not to be shown."""
        if not self.shows_samples:
            return
        text = printable(text.strip())
        title = f"sample after {step:,} steps"
        if self.live.is_started:
            shown = Text(text, no_wrap=False, overflow="fold")
            self.newest_sample = Panel(shown, title=title, height=SAMPLE_LINES + 2)
        else:
            self.message(f"--- {title} ---\n{text}")

    def panel(self) -> Group:
        """Return the panel: progress, measurements, the newest sample."""
        progress = Table.grid(expand=True, padding=(0, 1))
        progress.add_column()
        progress.add_column(ratio=1)
        progress.add_row(
            f"step {self.last_step:,}/{self.max_steps:,}",
            ProgressBar(total=self.max_steps, completed=self.last_step),
            f"{self.time_left} left",
        )
        table = Table.grid(expand=True, padding=(0, 1))
        for _ in range(2):
            table.add_column(style="dim")
            table.add_column(ratio=1)
        cells = [cell for pair in self.measured.items() for cell in pair]
        for first in range(0, len(cells), 4):
            table.add_row(*cells[first : first + 4])
        measurements = Panel(Group(progress, table), title="training")
        parts = [measurements, self.newest_sample] if self.newest_sample else [measurements]
        return Group(*parts)


class Sampler:
    """Samples every `interval` steps, without any effect on training; never if that is 0."""

    def __init__(
        self,
        write: WriteSample,
        tokenizer: Tokenizer,
        interval: int,
        further_steps: Collection[int] = (),
    ) -> None:
        """further_steps: when samples are due, too."""
        self.write = write
        self.tokenizer = tokenizer
        self.interval = interval
        self.further_steps = further_steps

    def is_due(self, step: int) -> bool:
        """Return whether a sample is due after `step` steps; never with interval 0."""
        if self.interval == 0:
            return False
        return step % self.interval == 0 or step in self.further_steps

    def sample(self, model: LanguageModel) -> str:
        """Return a sample. The model's mode and the random state stay as they were."""
        device = next(model.parameters()).device
        devices = [device] if device.type == "cuda" else []
        with eval_mode(model), torch.random.fork_rng(devices):
            return self.write(model, self.tokenizer)


def printable(text: str) -> str:
    """Replace control characters, which a model may write and a terminal would obey."""
    return "".join(c if c.isprintable() or c in "\n\t" else "�" for c in text)
