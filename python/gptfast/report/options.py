"""The options of `gptfast report`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from gptfast.errors import UserError


@dataclass(frozen=True)
class ReportConfig:
    """Write one HTML file about a run, or one that compares several."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Model folders that training made, or a folder that `gptfast ladder` made."""
    out: Path = Path("report.html")
    """The file to write."""
    playground: bool = True
    """Put the model itself into the report of one run, in int8, to be tried out in the page."""
    audits: bool = True
    """Measure attention and repetition. This runs the model, and takes long if it is large."""
    overwrite: bool = False
    """Replace the file."""

    def __post_init__(self) -> None:
        if not self.runs:
            raise UserError("no run given: expected one or more folders that `gptfast train` made")
