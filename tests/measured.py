"""What runs that should be the same have in common."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def measured(folder: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl, but for how long it took and how much memory."""
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    of_the_machine = ("seconds", "tokens_per_second", "peak_memory")
    return [{k: v for k, v in line.items() if k not in of_the_machine} for line in lines]
