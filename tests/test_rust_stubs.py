"""`_rust.pyi` says what the compiled extension really has."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_stubs_match_the_extension() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "mypy.stubtest", "gptfast._rust"],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
