"""Runs the kernel tests in Triton's interpreter; conftest.py says why in a process of their own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")


FILES = sorted(Path(__file__).parent.glob("test_*_kernel.py"))


# Two processes, for two cores: each takes seconds to import PyTorch.
@pytest.mark.slow
@pytest.mark.parametrize("files", [FILES[::2], FILES[1::2]], ids=["half", "other half"])
def test_kernels_in_the_interpreter(files):
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *files],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    print(done.stdout.splitlines()[-1])
    assert done.returncode == 0, done.stdout + done.stderr
