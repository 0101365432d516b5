"""tiktoken's rank files."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gptfast.errors import MissingFileError, UserError
from gptfast.system.files import make_folder, write_text_atomically
from gptfast.tokenizer.checks import as_path, shorten
from gptfast.tokenizer.foreign import what_it_is
from gptfast.tokenizer.known_ranks import OF_MODELS, PUBLISHED, KnownRanks
from gptfast.tokenizer.roles import END_OF_TEXT
from gptfast.tokenizer.spelling import byte_level_alphabet, token_if_spelled

_LINE = "expected a token in base64, a space and its rank"


def known_ranks(ranks: dict[bytes, int]) -> KnownRanks | None:
    """Return the published encoding that has these ranks; of several, the first in `PUBLISHED`.

    They are recognized by their hash, because another vocabulary can have as many tokens.
    """
    sha256 = sha256_of(ranks)
    of_all = [*PUBLISHED.values(), *OF_MODELS]
    return next((known for known in of_all if known.sha256 == sha256), None)


def read_encoding(
    path: str | Path, pattern: str | None, special_tokens: Mapping[str, int] | None
) -> tuple[dict[bytes, int], str, Mapping[str, int], dict[str, Any] | None]:
    """Return the ranks of a rank file, and what `BPETokenizer.from_tiktoken` says of the rest.

    That is the pattern, the special tokens and the normalizer.

    Raises UserError if the pattern is not known, and as `read_tiktoken`.
    """
    ranks = read_tiktoken(path)
    known = known_ranks(ranks)
    normalizer = None
    if pattern is None:
        if known is None:
            raise UserError(
                f"{path} does not have the ranks of GPT-2, p50k, cl100k, o200k, Llama or Qwen, and "
                f"a rank file does not contain its pattern: give its pattern (pattern=, "
                f"--pattern), such as gpt2"
            )
        pattern, normalizer = known.pattern, known.normalizer
    if special_tokens is None:
        next_id = max(ranks.values()) + 1
        special_tokens = known.special_tokens if known else {END_OF_TEXT: next_id}
    return ranks, pattern, special_tokens, normalizer


def sha256_of(ranks: dict[bytes, int]) -> str:
    """Return the SHA-256 of the rank file that `write_tiktoken` would write, in hexadecimal."""
    return hashlib.sha256(tiktoken_lines(ranks).encode()).hexdigest()


def read_tiktoken(path: str | Path) -> dict[bytes, int]:
    """Return the tokens and their ranks of a tiktoken rank file: a line is `<base64> <rank>`.

    A byte order mark, blank lines, and spaces around a line are ignored. Raises MissingFileError if
    there is no such file, UserError if a line is something else.
    """
    path = as_path("path", path)
    if path.is_dir():
        raise UserError(f"{path} is a folder: expected a tiktoken rank file")
    if not path.is_file():
        raise MissingFileError(f"there is no {path}: expected a tiktoken rank file")
    data = path.read_bytes()
    if what := what_it_is(data):
        raise UserError(f"{path} is {what}")
    line_of_token: dict[bytes, int] = {}
    token_of_rank: dict[int, bytes] = {}
    for number, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").splitlines(), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number} is {shorten(line)}"
        token, rank = _parse_rank(line, where)
        if token in line_of_token:
            raise UserError(f"{where}: {_LINE}, but line {line_of_token[token]} has the same token")
        if rank in token_of_rank:
            other = line_of_token[token_of_rank[rank]]
            raise UserError(f"{where}: {_LINE}, but line {other} has the same rank")
        line_of_token[token] = number
        token_of_rank[rank] = token
    return {token: rank for rank, token in token_of_rank.items()}


def read_merges(data: bytes) -> dict[bytes, int]:
    """Return the ranks of GPT-2's vocab.bpe, whose lines after the first are merges in order.

    The single bytes come first, in the order of GPT-2's alphabet.
    """
    alphabet = byte_level_alphabet()
    tokens = [bytes([byte]) for byte in sorted(alphabet, key=alphabet.__getitem__)]
    lines = data.decode(errors="replace").splitlines()[1:]
    merged = (token_if_spelled("".join(line.split())) for line in lines)
    return {token: rank for rank, token in enumerate([*tokens, *filter(None, merged)])}


def _parse_rank(line: bytes, where: str) -> tuple[bytes, int]:
    """Return the token and the rank of a line. Raises UserError if it has anything else."""
    fields = line.split()
    if len(fields) != 2 or not (fields[1].isdigit() and len(fields[1]) < 20):
        raise UserError(f"{where}: {_LINE}")
    try:
        return base64.b64decode(fields[0], validate=True), int(fields[1])
    except ValueError:  # binascii.Error is one
        raise UserError(f"{where}: {_LINE}; the token is no base64") from None


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
