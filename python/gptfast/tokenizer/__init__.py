"""Text to ids and back: a character tokenizer and byte-level BPE behind one interface.

Nothing here needs PyTorch or reads a corpus; `gptfast.data` turns files into ids.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptfast.errors import UserError
from gptfast.system.lazy import import_name
from gptfast.tokenizer.added import AddedToken
from gptfast.tokenizer.base import Tokenizer
from gptfast.tokenizer.foreign import what_json_is
from gptfast.tokenizer.formats import read_tokenizer_json, tokenizer_json_path
from gptfast.tokenizer.roles import Roles

if TYPE_CHECKING:
    from gptfast.tokenizer.bpe import BPETokenizer
    from gptfast.tokenizer.char import CharTokenizer
    from gptfast.tokenizer.objects import as_hf, as_tiktoken
    from gptfast.tokenizer.published import get_encoding

__all__ = [
    "AddedToken",
    "BPETokenizer",
    "CharTokenizer",
    "Roles",
    "Tokenizer",
    "as_hf",
    "as_tiktoken",
    "get_encoding",
    "load_tokenizer",
]

_MODULES = {
    "BPETokenizer": "bpe",
    "CharTokenizer": "char",
    "as_hf": "objects",
    "as_tiktoken": "objects",
    "get_encoding": "published",
}


def __getattr__(name: str) -> Any:
    """Import what is not always needed when it is first used."""
    return import_name(__name__, _MODULES, name)


def load_tokenizer(folder_or_file: str | Path) -> Tokenizer:
    """Load a `tokenizer.json` or `tekken.json`, or the one in a folder, as the class for its model.

    Raises MissingFileError if there is no such file, UserError if it can't be used.
    """
    path = tokenizer_json_path(folder_or_file)
    data = read_tokenizer_json(path)
    match data:
        case {"model": {"type": "BPE"}} | {"config": {"pattern": _}, "vocab": [*_]}:
            from gptfast.tokenizer.bpe import BPETokenizer

            return BPETokenizer.load(path)
        case {"model": {"type": "WordLevel"}}:
            from gptfast.tokenizer.char import CharTokenizer

            return CharTokenizer.load(path)
        case {"model": model}:
            kind = model.get("type") if isinstance(model, dict) else model
            raise UserError(f"{path}: model.type is {kind!r}: expected 'BPE' or 'WordLevel'")
        case _:
            raise UserError(f"{path} is {what_json_is(data)}")
