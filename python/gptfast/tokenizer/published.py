"""Open a tokenizer from any file: a `tokenizer.json`, its folder, or a tiktoken rank file."""

from __future__ import annotations

from pathlib import Path

from gptfast.errors import MissingFileError, UserError
from gptfast.tokenizer import BPETokenizer, Tokenizer, load_tokenizer
from gptfast.tokenizer.checks import as_path
from gptfast.tokenizer.ranks import known_ranks, read_tiktoken


def open_tokenizer(path: str | Path, pattern: str | None = None) -> Tokenizer:
    """Load a `tokenizer.json`, the one in a folder, or a rank file.

    For a rank file with exactly the ranks of GPT-2, cl100k or o200k, the published pattern and
    special tokens are used. Any other needs `pattern`, and `<|endoftext|>` follows its last rank.

    Raises MissingFileError if there is no such file, UserError if it can't be used.
    """
    path = as_path("path", path)
    if not path.exists():
        raise MissingFileError(
            f"there is no {path}: expected a folder with a tokenizer.json, a tokenizer.json or a "
            f"tiktoken rank file"
        )
    if path.is_dir() or _is_json(path):
        if pattern is not None:
            raise UserError(
                f"pattern is {pattern!r}, but {path} has its own pattern: give one only for a "
                f"tiktoken rank file"
            )
        return load_tokenizer(path)
    if pattern is None and known_ranks(read_tiktoken(path)) is None:
        raise UserError(
            f"{path} does not have the ranks of GPT-2, cl100k or o200k, and a rank file does not "
            f"contain its pattern: give its pattern, such as gpt2"
        )
    return BPETokenizer.from_tiktoken(path, pattern)


def _is_json(path: Path) -> bool:
    """Return whether a file begins like a JSON object. Base64 contains no brace."""
    with path.open("rb") as file:
        return file.read(256).lstrip().startswith(b"{")
