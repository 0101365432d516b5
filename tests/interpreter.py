"""Triton's interpreter, faster. Set TRITON_INTERPRET=1 before Triton is imported."""

from __future__ import annotations

import functools
from types import SimpleNamespace
from typing import Any


def patch_triton_language_once() -> None:
    """Save a third of the interpreter's time.

    The interpreter replaces the functions of triton.language in each launch, and again in each call
    from one kernel function to another. In a process that only interprets, once is enough.
    """
    from triton.runtime import interpreter

    patch = interpreter._patch_lang

    @functools.cache
    def patch_for_good(function: Any) -> SimpleNamespace:
        patch(function)
        return SimpleNamespace(restore=lambda: None)

    interpreter._patch_lang = patch_for_good
