"""tiktoken's rank files, and what the published ones leave out: the pattern, the special tokens."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from gptfast.errors import MissingFileError, UserError
from gptfast.system.files import make_folder, write_text_atomically
from gptfast.tokenizer.checks import as_path, shorten
from gptfast.tokenizer.foreign import what_it_is
from gptfast.tokenizer.formats import byte_level_alphabet, token_spelled
from gptfast.tokenizer.roles import END_OF_TEXT

_LINE = "expected a token in base64, a space and its rank"


@dataclass(frozen=True)
class KnownRanks:
    """A published encoding: its rank file, and what that does not contain."""

    file: str
    """The name under which the file was published."""
    sha256: str
    pattern: str
    special_tokens: dict[str, int]


_GPT2 = KnownRanks(
    "r50k_base.tiktoken",
    "306cd27f03c1a714eca7108e03d66b7dc042abe8c258b44c199a7ed9838dd930",
    "gpt2",
    {END_OF_TEXT: 50256},
)
# GPT-2's ranks, and runs of spaces from 50,257 on.
_P50K = KnownRanks(
    "p50k_base.tiktoken",
    "94b5ca7dff4d00767bc256fdd1b27e5b17361d7b8a5f968547f9f23eb70d2069",
    "gpt2",
    {END_OF_TEXT: 50256},
)
_O200K = KnownRanks(
    "o200k_base.tiktoken",
    "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d",
    "o200k",
    {END_OF_TEXT: 199999, "<|endofprompt|>": 200018},
)
_HARMONY = {
    "<|startoftext|>": 199998, "<|return|>": 200002, "<|constrain|>": 200003,
    "<|channel|>": 200005, "<|start|>": 200006, "<|end|>": 200007, "<|message|>": 200008,
    "<|call|>": 200012,
}  # fmt: skip
_FILL_IN_THE_MIDDLE = ["<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>"]


def _with_reserved(special_tokens: dict[str, int]) -> dict[str, int]:
    """Return the special tokens of harmony, which has a name for every id up to 201,087.

    tiktoken also calls 200018 `<|reserved_200018|>`. An id has one name here: `<|endofprompt|>`.
    """
    named = special_tokens | _HARMONY
    reserved = set(range(200_000, 201_088)).difference(named.values())
    return named | {f"<|reserved_{token_id}|>": token_id for token_id in sorted(reserved)}


PUBLISHED = {
    "gpt2": _GPT2,
    "r50k_base": _GPT2,
    "p50k_base": _P50K,
    "p50k_edit": KnownRanks(
        _P50K.file,
        _P50K.sha256,
        _P50K.pattern,
        {END_OF_TEXT: 50256} | dict(zip(_FILL_IN_THE_MIDDLE, range(50281, 50284), strict=True)),
    ),
    "cl100k_base": KnownRanks(
        "cl100k_base.tiktoken",
        "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
        "cl100k",
        {
            END_OF_TEXT: 100257,
            **dict(zip(_FILL_IN_THE_MIDDLE, range(100258, 100261), strict=True)),
            "<|endofprompt|>": 100276,
        },
    ),
    "o200k_base": _O200K,
    "o200k_harmony": replace(_O200K, special_tokens=_with_reserved(_O200K.special_tokens)),
}
"""The encodings that tiktoken publishes, by name. Several have the same ranks."""


def known_ranks(ranks: dict[bytes, int]) -> KnownRanks | None:
    """Return the published encoding that has these ranks; of several, the first in `PUBLISHED`.

    They are recognized by their hash, because another vocabulary can have as many tokens.
    """
    sha256 = sha256_of(ranks)
    return next((known for known in PUBLISHED.values() if known.sha256 == sha256), None)


def read_encoding(
    path: str | Path, pattern: str | None, special_tokens: Mapping[str, int] | None
) -> tuple[dict[bytes, int], str, Mapping[str, int]]:
    """Return the ranks of a rank file, and what `BPETokenizer.from_tiktoken` says of the rest.

    Raises UserError if the pattern is not known, and as `read_tiktoken`.
    """
    ranks = read_tiktoken(path)
    known = known_ranks(ranks)
    if pattern is None:
        if known is None:
            raise UserError(
                f"{path} does not have the ranks of GPT-2, p50k, cl100k or o200k, and a rank file "
                f"does not contain its pattern: give its pattern (pattern=, --pattern), such as "
                f"gpt2"
            )
        pattern = known.pattern
    if special_tokens is None:
        next_id = max(ranks.values()) + 1
        special_tokens = known.special_tokens if known else {END_OF_TEXT: next_id}
    return ranks, pattern, special_tokens


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
    merged = (token_spelled("".join(line.split())) for line in lines)
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
