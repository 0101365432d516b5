"""`_rust.pyi` says what the compiled extension really has."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import gptfast._rust


def test_stubs_match_the_extension(tmp_path: Path) -> None:
    # Apart from the package, whose other modules mypy would check first.
    extension = Path(gptfast._rust.__file__)
    for path in (extension, extension.parent / "_rust.pyi"):
        shutil.copy(path, tmp_path)
    result = subprocess.run(
        [sys.executable, "-m", "mypy.stubtest", "_rust"],
        cwd=tmp_path,
        env=os.environ | {"MYPYPATH": str(tmp_path), "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
