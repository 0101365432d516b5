"""GGUF files."""

from __future__ import annotations

from pathlib import Path


def export_gguf(folder: Path, out: Path, kind: str) -> None:
    """Write `out`."""
    raise NotImplementedError
