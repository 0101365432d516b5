"""Open a tokenizer from any of its files: `tokenizer.json`, its folder, or a tiktoken rank file."""

from __future__ import annotations

from pathlib import Path

from gptfast.errors import MissingFileError, UserError
from gptfast.tokenizer import BPETokenizer, Tokenizer, load_tokenizer
from gptfast.tokenizer.base import END_OF_TEXT
from gptfast.tokenizer.formats import read_tiktoken

# A rank file has neither the pattern nor the special tokens. Those that tiktoken publishes are
# known by how many ranks they have.
_PUBLISHED: dict[int, tuple[str, dict[str, int]]] = {
    50256: ("gpt2", {END_OF_TEXT: 50256}),
    100256: (
        "cl100k",
        {
            END_OF_TEXT: 100257,
            "<|fim_prefix|>": 100258,
            "<|fim_middle|>": 100259,
            "<|fim_suffix|>": 100260,
            "<|endofprompt|>": 100276,
        },
    ),
    199998: ("o200k", {END_OF_TEXT: 199999, "<|endofprompt|>": 200018}),
}


def open_tokenizer(path: str | Path, pattern: str | None = None) -> Tokenizer:
    """Load a `tokenizer.json`, the one in a folder, or a rank file.

    A rank file of 50256, 100256 or 199998 ranks gets the pattern and the special tokens of GPT-2,
    cl100k or o200k; any other needs `pattern` and gets `<|endoftext|>` after its last rank.

    Raises MissingFileError if there is no such file, UserError if it can't be used.
    """
    path = Path(path)
    if not path.exists():
        raise MissingFileError(
            f"there is no {path}: expected a folder with a tokenizer.json, a tokenizer.json or a "
            f"tiktoken rank file"
        )
    if path.is_dir() or _is_json(path):
        if pattern is not None:
            raise UserError(
                f"pattern is {pattern!r}, but {path} has a pattern of its own: give one for a "
                f"tiktoken rank file only"
            )
        return load_tokenizer(path)
    ranks = read_tiktoken(path)
    if len(ranks) in _PUBLISHED:
        published_pattern, special_tokens = _PUBLISHED[len(ranks)]
    elif pattern is not None:
        published_pattern, special_tokens = pattern, {END_OF_TEXT: max(ranks.values()) + 1}
    else:
        raise UserError(
            f"{path} has {len(ranks)} ranks, which is no vocabulary whose pattern is known "
            f"({', '.join(map(str, _PUBLISHED))}): give its pattern, such as gpt2"
        )
    try:
        return BPETokenizer(ranks, pattern or published_pattern, special_tokens)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _is_json(path: Path) -> bool:
    """Whether a file begins as a JSON object does; base64 has no brace."""
    with path.open("rb") as file:
        return file.read(256).lstrip().startswith(b"{")
