"""What an evaluation found: small tables to print, and one JSON object to keep."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Section:
    """The result of one evaluation."""

    name: str
    """Its key in the JSON object."""
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    result: dict[str, Any]
    """The numbers, for JSON."""
    notes: tuple[str, ...] = ()
    """What a reader must know to interpret the numbers, in lines."""

    def print(self, console: Console) -> None:
        """Print the table and its notes."""
        table = Table(title=self.title, title_justify="left", title_style="bold")
        for i, column in enumerate(self.columns):
            table.add_column(column, justify="right" if i else "left")
        for row in self.rows:
            table.add_row(*row)
        console.print(table)
        for note in self.notes:
            console.print(f"note: {note}")


def as_json(model: Path, sections: Iterable[Section]) -> str:
    """Return the results of all sections as one JSON object."""
    content: dict[str, Any] = {"model": str(model)}
    for section in sections:
        content[section.name] = {**section.result, "notes": list(section.notes)}
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
