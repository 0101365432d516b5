"""Where the kernel tests run: on the GPU if there is one, else in Triton's interpreter.

The interpreter is chosen by TRITON_INTERPRET=1 before Triton is imported, and then holds for the
whole process, where torch.compile and ahead-of-time compilation need the real compiler. So the
kernel tests are left out of an ordinary session without a GPU, and test_interpreted.py runs them
in a process of their own.
"""

import functools
import os
from types import SimpleNamespace

import pytest
import torch

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"

if not (INTERPRETED or torch.cuda.is_available()):
    collect_ignore_glob = ["test_*_kernel.py"]


def patch_triton_language_once():
    """Save a third of the interpreter's time.

    The interpreter replaces the functions of triton.language in each launch, and again in each call
    from one kernel function to another. In a process that only interprets, once is enough.
    """
    from triton.runtime import interpreter

    patch = interpreter._patch_lang

    @functools.cache
    def patch_for_good(function):
        patch(function)
        return SimpleNamespace(restore=lambda: None)

    interpreter._patch_lang = patch_for_good


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
