"""Text to ids and back: a character tokenizer and byte-level BPE behind one interface.

Nothing here needs PyTorch or reads a corpus; `gptfast.data` turns files into ids.
"""

from __future__ import annotations

from pathlib import Path

from gptfast.errors import UserError
from gptfast.tokenizer.base import Tokenizer
from gptfast.tokenizer.bpe import BPETokenizer
from gptfast.tokenizer.char import CharTokenizer
from gptfast.tokenizer.formats import read_tokenizer_json, tokenizer_json_path

__all__ = ["BPETokenizer", "CharTokenizer", "Tokenizer", "load_tokenizer"]

_CLASSES: dict[str, type[Tokenizer]] = {"BPE": BPETokenizer, "WordLevel": CharTokenizer}


def load_tokenizer(folder_or_file: str | Path) -> Tokenizer:
    """Load a `tokenizer.json`, or the one in a folder, as the class for its model type.

    Raises MissingFileError if there is no such file, UserError if it can't be used.
    """
    path = tokenizer_json_path(folder_or_file)
    match read_tokenizer_json(path):
        case {"model": {"type": str(model_type)}} if model_type in _CLASSES:
            return _CLASSES[model_type].load(path)
        case _:
            raise UserError(f"{path}: expected a model.type that is one of {sorted(_CLASSES)}")
