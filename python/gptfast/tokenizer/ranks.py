"""tiktoken's rank files, and what the published ones leave out: the pattern, the special tokens."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from pathlib import Path

from gptfast.errors import MissingFileError, UserError
from gptfast.system.files import make_folder, write_text_atomically
from gptfast.tokenizer.checks import as_path, shorten

_END_OF_TEXT = "<|endoftext|>"


@dataclass(frozen=True)
class KnownRanks:
    """What a rank file does not contain."""

    pattern: str
    special_tokens: dict[str, int]


# By the SHA-256 of the rank file.
_PUBLISHED = {
    "306cd27f03c1a714eca7108e03d66b7dc042abe8c258b44c199a7ed9838dd930": KnownRanks(
        "gpt2", {_END_OF_TEXT: 50256}
    ),
    "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7": KnownRanks(
        "cl100k",
        {
            _END_OF_TEXT: 100257,
            "<|fim_prefix|>": 100258,
            "<|fim_middle|>": 100259,
            "<|fim_suffix|>": 100260,
            "<|endofprompt|>": 100276,
        },
    ),
    "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d": KnownRanks(
        "o200k", {_END_OF_TEXT: 199999, "<|endofprompt|>": 200018}
    ),
}


def known_ranks(ranks: dict[bytes, int]) -> KnownRanks | None:
    """Return the pattern and special tokens of GPT-2, cl100k or o200k if these are its ranks.

    They are recognized by their hash, because another vocabulary can have as many tokens.
    """
    return _PUBLISHED.get(hashlib.sha256(tiktoken_lines(ranks).encode()).hexdigest())


def read_tiktoken(path: str | Path) -> dict[bytes, int]:
    """Return the tokens and their ranks of a tiktoken rank file: a line is `<base64> <rank>`.

    Raises MissingFileError if there is no such file, UserError if a line is something else.
    """
    path = as_path("path", path)
    if not path.is_file():
        raise MissingFileError(f"there is no {path}: expected a tiktoken rank file")
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        token, rank = _parse_rank(line) or (b"", 0)
        if not token or token in ranks:
            raise UserError(
                f"{path}, line {number} is {shorten(line)}: expected a token in base64 that no "
                f"line before has, a space and its rank"
            )
        ranks[token] = rank
    return ranks


def _parse_rank(line: bytes) -> tuple[bytes, int] | None:
    try:
        token, rank = line.split()
        return base64.b64decode(token, validate=True), int(rank)
    except ValueError:  # binascii.Error is one
        return None


def write_tiktoken(path: str | Path, ranks: dict[bytes, int]) -> None:
    """Write a tiktoken rank file, tokens by rank. Raises UserError if it can't be written there."""
    path = as_path("path", path)
    if path.is_dir():
        raise UserError(f"{path} is a folder: expected the name of the file to be written")
    make_folder(path.parent)
    write_text_atomically(path, tiktoken_lines(ranks))


def tiktoken_lines(ranks: dict[bytes, int]) -> str:
    """Return the contents of a tiktoken rank file, tokens by rank."""
    by_rank = sorted(ranks.items(), key=lambda item: item[1])
    return "".join(f"{base64.b64encode(token).decode()} {rank}\n" for token, rank in by_rank)
