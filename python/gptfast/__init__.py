"""gptfast: build your own GPT, all of it.

>>> from gptfast import LLM
>>> llm = LLM.train("my.txt")                                  # doctest: +SKIP
>>> print(llm.generate("Once upon a time"))                    # doctest: +SKIP
"""

from __future__ import annotations

from importlib import metadata
from typing import TYPE_CHECKING, Any

from gptfast.system import cpu, threads

if TYPE_CHECKING:
    from pathlib import Path

    from gptfast.llm import LLM
    from gptfast.model import LanguageModel
    from gptfast.model.config import RopeScaling
    from gptfast.model.heads import SequenceClassifier
    from gptfast.model.vision import VisionTransformer
    from gptfast.tokenizer import Tokenizer

__all__ = ["LLM", "__version__", "load", "load_classifier", "load_vision"]

# Cargo.toml holds the number; maturin writes it into the metadata of what is installed.
try:
    __version__ = metadata.version("gptfast")
except metadata.PackageNotFoundError:  # a checkout on the path that was never installed
    __version__ = "0+unknown"

# Before PyTorch loads and multiplies its first matrices: see the modules' docstrings.
cpu.avoid_masked_amx()
threads.limit_spinning()


def load(
    folder: str | Path, *, rope_scaling: RopeScaling = "none", rope_factor: float = 1.0
) -> tuple[LanguageModel, Tokenizer]:
    """Load a model folder: the model in evaluation mode on the CPU, and its tokenizer.

    rope_scaling, rope_factor: 'ntk' or 'yarn' stretch a model's rotary positions to a context so
    many times as long as it was trained with, without further training.
    Raises MissingFileError if the folder holds no model, UserError if its files are damaged, or
    if its positions can't be stretched.
    """
    from gptfast.model.folder import load_model  # importing torch takes seconds

    return load_model(folder, rope_scaling=rope_scaling, rope_factor=rope_factor)


def load_classifier(folder: str | Path) -> tuple[SequenceClassifier, Tokenizer]:
    """Load the folder of a classifier or of a reward model, in evaluation mode on the CPU.

    `model.classify(tokenizer, texts)` names the classes of texts. Raises MissingFileError if the
    folder holds no model, UserError if it holds another kind of model or if its files are damaged.
    """
    from gptfast.model.heads import load_classifier  # importing torch takes seconds

    return load_classifier(folder)


def load_vision(folder: str | Path) -> VisionTransformer:
    """Load the folder of a vision transformer, in evaluation mode on the CPU.

    `model.classify(pixels)` names the classes of images. Raises MissingFileError if the folder
    holds no model, UserError if it holds another kind of model or if its files are damaged.
    """
    from gptfast.model.vision import load_vision  # importing torch takes seconds

    return load_vision(folder)


if not TYPE_CHECKING:  # a type checker would believe that every name exists

    def __getattr__(name: str) -> Any:
        """Import `LLM` when it is first used: PyTorch takes seconds."""
        if name != "LLM":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from gptfast.llm import LLM

        return LLM
