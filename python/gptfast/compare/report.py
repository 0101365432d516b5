"""Runs side by side: their settings where they differ, their results, their curves."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from gptfast.errors import MissingFileError
from gptfast.train.record import read_record
from gptfast.train.run import flat

RESULTS = {
    "val_loss": "val loss (nats/token)",
    "val_bits_per_byte": "val bits/byte",
    "steps": "steps taken",
    "best_step": "best step",
    "tokens_per_second": "tokens/s",
    "seconds": "seconds",
}


@dataclass(frozen=True)
class Run:
    """What a model folder says about how it was made."""

    folder: Path
    name: str
    settings: dict[str, Any]
    result: dict[str, Any] | None
    """None while the run isn't finished."""
    looks: list[dict[str, Any]]
    """The lines of metrics.jsonl that have a val loss."""
    losses: list[dict[str, Any]]
    """The lines that have a training loss."""


def read_run(folder: Path) -> Run:
    """Read run.json and metrics.jsonl. Raises MissingFileError or UserError."""
    if not (folder / "run.json").is_file():
        raise MissingFileError(
            f"no run in {folder}: expected a folder that `gptfast train` made, with a run.json"
        )
    record = read_record(folder)
    path = folder / "metrics.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    metrics = [json.loads(line) for line in lines if line.endswith("}")]  # not one just written
    return Run(
        folder,
        os.path.normpath(folder),
        flat(record["config"]) | {"corpus": record["data"]["corpus"]},
        record["result"],
        [m for m in metrics if "val_loss" in m],
        [m for m in metrics if "loss" in m],
    )


def differences(runs: Sequence[Run]) -> Table:
    """A table of the settings in which the runs differ, and of their results."""
    table = Table()
    table.add_column("")
    for run in runs:
        table.add_column(run.name, justify="right", overflow="fold")
    names = dict.fromkeys(name for run in runs for name in run.settings)  # in the order of run.json
    for name in names:
        values = [run.settings.get(name, "-") for run in runs]
        if name not in ("out", "preset") and any(value != values[0] for value in values):
            table.add_row(name, *map(_text, values))
    table.add_section()
    for name, heading in RESULTS.items():
        table.add_row(heading, *[_text(run.result[name]) if run.result else "-" for run in runs])
    return table


def plot(runs: Sequence[Run], path: Path) -> None:
    """Draw the val losses, and the training losses thinly behind them, over steps and seconds."""
    from matplotlib.figure import Figure  # half a second that only this needs

    figure = Figure(figsize=(11, 5), layout="constrained")
    by_step, by_second = figure.subplots(1, 2, sharey=True)
    for i, run in enumerate(runs):
        color = f"C{i}"
        by_step.plot(*_curve(run.losses, "step", "loss"), color=color, alpha=0.3, linewidth=1)
        by_step.plot(
            *_curve(run.looks, "step", "val_loss"), color=color, marker=".", label=run.name
        )
        by_second.plot(*_curve(run.losses, "seconds", "loss"), color=color, alpha=0.3, linewidth=1)
        by_second.plot(*_curve(run.looks, "seconds", "val_loss"), color=color, marker=".")
    by_step.set_xlabel("optimizer steps")
    by_second.set_xlabel("seconds, evaluations included")
    by_step.set_ylabel("loss (nats per token): val, and training behind it")
    for axes in (by_step, by_second):
        axes.grid(alpha=0.3)
    by_step.legend()
    figure.savefig(path, format="png", dpi=120)


def _curve(lines: Sequence[dict[str, Any]], x: str, y: str) -> tuple[list[float], list[float]]:
    return [line[x] for line in lines], [line[y] for line in lines]


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.5g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
