"""Models: one configurable GPT, and the simpler models of the ladder that lead to it.

Names are imported on first use, so that importing `gptfast.model.config` does not import PyTorch,
which takes seconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gptfast.system.lazy import import_name

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
    return import_name(__name__, _MODULES, name)
