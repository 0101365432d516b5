from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from gptfast.data.documents import notes, pipes


@pytest.fixture(autouse=True)
def _fresh_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let notes be said again, and put the copies of pipes into the test's folder."""
    monkeypatch.setattr(notes, "_said", set())
    monkeypatch.setattr(pipes, "_folder", [])
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
