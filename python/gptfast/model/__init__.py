"""Models: one GPT whose configuration spans GPT-2, and the rungs that lead to it.

Names are loaded when they are first used: importing `gptfast.model.config` imports no PyTorch,
which takes seconds.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gptfast.model.base import LanguageModel
    from gptfast.model.build import build_model
    from gptfast.model.config import ModelConfig
    from gptfast.model.transformer import GPT

__all__ = ["GPT", "LanguageModel", "ModelConfig", "build_model"]

_MODULES = {
    "GPT": "transformer",
    "LanguageModel": "base",
    "ModelConfig": "config",
    "build_model": "build",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value  # found at once from now on
    return value
