"""Where the benchmarks' results go."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from gptfast.system.files import write_text_atomically
from gptfast.system.machine import commit, hardware, versions


def circumstances() -> dict[str, Any]:
    """Return what results depend on: when, by which code, on what machine, with which versions."""
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": commit(),
        "hardware": hardware(),
        "versions": versions(),
    }


def save_results(path: Path, measured: dict[str, Any]) -> None:
    """Write what was measured as JSON, together with the circumstances."""
    write_text_atomically(path, json.dumps(circumstances() | measured, indent=2) + "\n")
