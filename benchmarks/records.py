"""Collect runs for docs/records.md: `python benchmarks/records.py RUN... --json FILE`.

Prints for each run its lowest val loss in a look, and the time from the first step to that look;
writes that, all looks, and what run.json says of the machine.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from gptfast import cli
from gptfast.compare.report import read_run
from gptfast.errors import UserError
from gptfast.fsync import write_text_atomically
from gptfast.train.record import read_record


@dataclass(frozen=True)
class Config:
    """Which runs, and where to."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Model folders of finished runs."""
    json: Path | None = None
    """File for the results."""


def main(argv: Sequence[str]) -> int:
    """Print the records, and write them if asked to. Returns 0."""
    config = cli.parse(Config, argv, "benchmarks/records.py")
    records = [record(folder) for folder in config.runs]
    for r in records:
        print(f"{r['preset']}: val {r['val_loss']:.4f} after {r['seconds']:.1f} s")
    if config.json:
        write_text_atomically(config.json, json.dumps(records, indent=2) + "\n")
    return 0


def record(folder: Path) -> dict[str, Any]:
    """What a finished run reached. Raises MissingFileError or UserError."""
    run, made = read_run(folder), read_record(folder)
    if run.result is None:
        raise UserError(f"the run in {folder} is not finished: go on with it first")
    best = min(run.looks, key=lambda look: look["val_loss"])
    return {
        "preset": made["config"]["preset"],
        "command": made["command"],
        "written": made["written"],
        "val_loss": best["val_loss"],
        "seconds": best["seconds"] - run.looks[0]["seconds"],
        "val_loss_of_the_whole_split": run.result["val_loss"],
        "tokens_per_second": run.result["tokens_per_second"],
        "looks": run.looks,
        "losses": [[line["step"], round(line["loss"], 4)] for line in run.losses],
        "corpus_sha256": made["data"]["corpus_sha256"],
        "hardware": made["hardware"],
        "versions": made["versions"],
    }


if __name__ == "__main__":
    sys.exit(cli.run(main))
