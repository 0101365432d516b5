"""Where the kernel tests run: on the GPU if there is one, else in Triton's interpreter.

The interpreter is chosen by TRITON_INTERPRET=1 before Triton is imported, and then holds for the
whole process, where torch.compile and ahead-of-time compilation need the real compiler. So the
kernel tests are left out of an ordinary session without a GPU, and test_interpreted.py runs them
in a process of their own.
"""

import os

import pytest
import torch

from interpreter import patch_triton_language_once

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"

if not (INTERPRETED or torch.cuda.is_available()):
    collect_ignore_glob = ["test_*_kernel.py"]

if INTERPRETED:
    patch_triton_language_once()


@pytest.fixture
def device():
    return "cpu" if INTERPRETED else "cuda"


@pytest.fixture
def _poisoned(monkeypatch):
    """Fill what torch.empty returns with NaN, so that an element no kernel wrote shows."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)
