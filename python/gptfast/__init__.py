"""gptfast: build your own GPT, all of it.

>>> import gptfast
>>> model, tokenizer = gptfast.load("runs/shakespeare")        # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gptfast import _cpu

if TYPE_CHECKING:
    from pathlib import Path

    from gptfast.model import LanguageModel
    from gptfast.tokenizer import Tokenizer

__version__ = "0.1.0"

# Must happen before PyTorch multiplies its first matrices: see the module's docstring.
_cpu.avoid_masked_amx()


def load(folder: str | Path) -> tuple[LanguageModel, Tokenizer]:
    """Load a model folder: the model in evaluation mode on the CPU, and its tokenizer.

    Raises MissingFileError if the folder holds no model, UserError if its files are damaged.
    """
    from gptfast.model.folder import load_model  # importing torch takes seconds

    return load_model(folder)
