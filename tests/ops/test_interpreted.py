"""Runs the kernel tests in Triton's interpreter; conftest.py says why in a process of their own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import KERNEL_TESTS

pytest.importorskip("triton")


@pytest.mark.slow
@pytest.mark.parametrize("file", KERNEL_TESTS)
def test_kernels_in_the_interpreter(file):
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", Path(__file__).parent / file],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    print(done.stdout.splitlines()[-1])
    assert done.returncode == 0, done.stdout + done.stderr
