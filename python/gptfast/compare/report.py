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
    "val_loss": "val loss (nats/token)",
    "val_bits_per_byte": "val bits/byte",
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
    for name, heading in RESULTS.items():
        table.add_row(heading, *[shown(_result(run, name)) for run in runs])
    return table


def side_by_side(samples: Sequence[tuple[str, str]]) -> Table:
    """Return a table with a column for each (name, sample)."""
    table = Table(expand=True)
    for name, _ in samples:
        table.add_column(Text(name), overflow="fold", ratio=1)
    # Text, so that brackets are not taken for markup.
    table.add_row(*(Text(sample) for _, sample in samples))
    return table


def _result(run: Run, name: str) -> Any:
    if run.result is None:
        return "-"
    return (run.result | run.result["measured"]).get(name, "-")
