"""Report on several runs: settings that differ, results, curves."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from gptfast.errors import MissingFileError
from gptfast.model.folder import read_precision
from gptfast.system.escape import escaped
from gptfast.tokenizer import load_tokenizer
from gptfast.train.record import read_record
from gptfast.train.resume import flat

if TYPE_CHECKING:
    from matplotlib.figure import Figure

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
    """What a model folder says about its training."""

    folder: Path
    name: str
    settings: dict[str, Any]
    tokenizer: str | None
    """The tokenizer's fingerprint; None before the run has written it."""
    result: dict[str, Any] | None
    """None until the run is finished."""
    evaluations: list[dict[str, Any]]
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
    # The last line may be half written.
    metrics = [json.loads(line) for line in lines if line.endswith("}")]
    data = {}
    if "further_data" in record:  # a pre-training
        corpora = [record["data"], *record["further_data"]]
        data["corpus"] = corpora[0]["corpus"]
        data["texts (SHA-256)"] = " ".join(corpus["corpus_sha256"][:12] for corpus in corpora)
    return Run(
        folder,
        escaped(os.path.normpath(folder)),
        flat(record["config"]) | {"weights": _weights(folder / "config.json")} | data,
        load_tokenizer(folder).fingerprint if (folder / "tokenizer.json").is_file() else None,
        record["result"],
        [m for m in metrics if "val_loss" in m],
        [m for m in metrics if "loss" in m],
    )


def _weights(path: Path) -> str:
    """Return what a model was quantized to, if it was."""
    precision = read_precision(path) if path.is_file() else None
    return precision or "float32"


def differences(runs: Sequence[Run]) -> Table:
    """Return a table of the settings that differ, and of the results."""
    table = Table()
    table.add_column("")
    for run in runs:
        table.add_column(run.name, justify="right", overflow="fold")
    names = dict.fromkeys(name for run in runs for name in run.settings)  # in run.json's order
    for name in names:
        values = [run.settings.get(name, "-") for run in runs]
        if name not in ("out", "preset") and any(value != values[0] for value in values):
            table.add_row(name, *map(_text, values))
    table.add_section()
    for name, heading in RESULTS.items():
        table.add_row(heading, *[_text(_result(run, name)) for run in runs])
    return table


def side_by_side(samples: Sequence[tuple[str, str]]) -> Table:
    """Return a table with a column for each (name, sample)."""
    table = Table(expand=True)
    for name, _ in samples:
        table.add_column(Text(name), overflow="fold", ratio=1)
    # Text, so that brackets are not taken for markup.
    table.add_row(*(Text(sample) for _, sample in samples))
    return table


def plot(runs: Sequence[Run], path: Path) -> None:
    """Write the `curves` as a PNG."""
    curves(runs).savefig(path, format="png", dpi=120)


def curves(runs: Sequence[Run]) -> Figure:
    """Draw val losses, with training losses faint behind them, over steps and over seconds.

    If the tokenizers differ, draw val losses in bits per byte, because losses per token don't
    compare. If the texts differ, bits per byte hardly compare either, and the title warns of it.
    """
    from matplotlib.figure import Figure  # imported late: takes half a second

    by_byte = len({run.tokenizer for run in runs} - {None}) > 1
    val_loss = "val_bits_per_byte" if by_byte else "val_loss"
    figure = Figure(figsize=(11, 5), layout="constrained")
    by_step, by_second = figure.subplots(1, 2, sharey=True)
    for i, run in enumerate(runs):
        color = f"C{i}"
        for axes, x in ((by_step, "step"), (by_second, "seconds")):
            if not by_byte:
                axes.plot(*_curve(run.losses, x, "loss"), color=color, alpha=0.3, linewidth=1)
            axes.plot(
                *_curve(run.evaluations, x, val_loss), color=color, marker=".", label=run.name
            )
    by_step.set_xlabel("optimizer steps")
    by_second.set_xlabel("seconds, evaluations included")
    nats = "loss (nats per token): val, and training behind it"
    by_step.set_ylabel("val loss (bits per byte)" if by_byte else nats)
    for axes in (by_step, by_second):
        axes.grid(alpha=0.3)
    by_step.legend()
    if len({run.settings.get("texts (SHA-256)") for run in runs}) > 1:
        figure.suptitle("trained and evaluated on different texts")
    return figure


def _curve(lines: Sequence[dict[str, Any]], x: str, y: str) -> tuple[list[float], list[float]]:
    lines = [line for line in lines if y in line]  # fine-tuning measures no bits per byte
    return [line[x] for line in lines], [line[y] for line in lines]


def _result(run: Run, name: str) -> Any:
    if run.result is None:
        return "-"
    return (run.result | run.result["measured"]).get(name, "-")


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.5g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
