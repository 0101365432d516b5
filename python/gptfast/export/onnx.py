"""ONNX files."""

from __future__ import annotations

from pathlib import Path


def export_onnx(folder: Path, out: Path) -> None:
    """Write `out`."""
    raise NotImplementedError
