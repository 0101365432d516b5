"""Tables about several runs: settings that differ, results, samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from gptfast.report.comparison import differences as differing
from gptfast.report.comparison import shown
from gptfast.train.history import Run

RESULTS = {
    "val_loss": "val loss (nats/{unit})",
    "val_bits_per_byte": "val bits/byte",
    "accuracy": "val accuracy",
    "test_accuracy": "test accuracy",
    "steps": "steps taken",
    "best_step": "best step",
    "tokens_per_second": "tokens/s",
    "seconds": "seconds",
}


def differences(runs: Sequence[Run]) -> Table:
    """Return a table of the settings that differ, and of the results."""
    table = Table()
    table.add_column("")
    for run in runs:
        table.add_column(run.name, justify="right", overflow="fold")
    for row in differing(runs):
        table.add_row(*row)
    table.add_section()
    unit = "image" if runs[0].reads_images else "token"
    for name, heading in RESULTS.items():
        if not any(name in _results(run) for run in runs):
            continue
        table.add_row(
            heading.format(unit=unit), *[shown(_results(run).get(name, "-")) for run in runs]
        )
    return table


def side_by_side(samples: Sequence[tuple[str, str]]) -> Table:
    """Return a table with a column for each (name, sample)."""
    table = Table(expand=True)
    for name, _ in samples:
        table.add_column(Text(name), overflow="fold", ratio=1)
    # Text, so that brackets are not taken for markup.
    table.add_row(*(Text(sample) for _, sample in samples))
    return table


def _results(run: Run) -> dict[str, Any]:
    return {} if run.result is None else run.result | run.result["measured"]
