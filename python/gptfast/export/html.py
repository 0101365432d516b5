"""HTML files."""

from __future__ import annotations

from pathlib import Path


def export_html(folder: Path, out: Path) -> None:
    """Write `out`."""
    raise NotImplementedError
