"""Where the benchmarks' results go."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from gptfast.system.files import write_text_atomically
from gptfast.system.machine import commit, hardware, versions


def save_results(path: Path, measured: dict[str, Any]) -> None:
    """Write what was measured as JSON, together with when, on what machine and by which PyTorch."""
    content = {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": commit(),
        "hardware": hardware(),
        "versions": versions(),
        **measured,
    }
    write_text_atomically(path, json.dumps(content, indent=2) + "\n")
