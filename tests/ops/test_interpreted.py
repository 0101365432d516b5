"""Runs the kernel tests in Triton's interpreter; conftest.py says why in a process of their own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")


KERNEL_TESTS = sorted(Path(__file__).parent.glob("test_*_kernel.py"))


@pytest.mark.slow
@pytest.mark.parametrize("file", KERNEL_TESTS, ids=lambda file: file.stem)
def test_kernels_in_the_interpreter(file):
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", file],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    print(done.stdout.splitlines()[-1])
    assert done.returncode == 0, done.stdout + done.stderr
