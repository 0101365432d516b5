"""Open a tokenizer from any file, or one of the published encodings by its name."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

from gptfast.errors import MissingFileError, UserError
from gptfast.system.files import cache_path
from gptfast.tokenizer import BPETokenizer, Tokenizer, load_tokenizer
from gptfast.tokenizer.checks import as_path, check_choice
from gptfast.tokenizer.known_ranks import PUBLISHED, KnownRanks
from gptfast.tokenizer.ranks import read_merges, read_tiktoken, sha256_of

# tiktoken names a file in its cache by the SHA-1 of the address that it came from.
_ADDRESS = "https://openaipublic.blob.core.windows.net/encodings/"
# For "gpt2", it keeps the merges that GPT-2 was published with, not the rank file.
_GPT2_MERGES = "https://openaipublic.blob.core.windows.net/gpt-2/encodings/main/vocab.bpe"


def open_tokenizer(path: str | Path, pattern: str | None = None) -> Tokenizer:
    """Load a `tokenizer.json`, the one in a folder, or a rank file.

    For a rank file, `pattern` and the special tokens are as for `BPETokenizer.from_tiktoken`.

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
    return BPETokenizer.from_tiktoken(path, pattern)


def as_bpe(tokenizer: Tokenizer, path: Path) -> BPETokenizer:
    """Return the tokenizer that `path` holds. Raises UserError if it is one of characters."""
    if not isinstance(tokenizer, BPETokenizer):
        raise UserError(f"{path} is a character tokenizer: expected a byte-level BPE")
    return tokenizer


def _is_json(path: Path) -> bool:
    """Return whether a file begins like a JSON object. Base64 contains no brace."""
    with path.open("rb") as file:
        return file.read(256).lstrip().startswith(b"{")


def get_encoding(name: str) -> BPETokenizer:
    """Return a published encoding by tiktoken's name for it, such as "gpt2" or "cl100k_base".

    Nothing is downloaded. The rank file, under its published name or tiktoken's name for it in its
    cache, is looked for in the folders that the environment variables `TIKTOKEN_CACHE_DIR` and
    `DATA_GYM_CACHE_DIR` name, in `ranks` in gptfast's cache folder (`GPTFAST_CACHE` names another),
    and where tiktoken keeps its files by default.

    Raises UserError for another name, or a file with other contents; MissingFileError if there is
    none.
    """
    check_choice("name", name, PUBLISHED)
    known = PUBLISHED[name]
    path = _find(name, known)
    data = path.read_bytes()
    ranks = read_merges(data) if data.startswith(b"#version") else read_tiktoken(path)
    if sha256_of(ranks) != known.sha256:
        raise UserError(
            f"{path} does not hold the ranks of {name}: expected the file {known.file} with the "
            f"SHA-256 {known.sha256}; fetch it again"
        )
    return BPETokenizer(ranks, known.pattern, known.special_tokens)


def _find(name: str, known: KnownRanks) -> Path:
    """Return the path of an encoding's rank file. Raises MissingFileError if there is none."""
    ours = cache_path() / "ranks"
    named = [os.environ.get(name) for name in ("TIKTOKEN_CACHE_DIR", "DATA_GYM_CACHE_DIR")]
    tiktokens = Path(tempfile.gettempdir(), "data-gym-cache")
    files = [known.file, f"{name}.tiktoken", _cached(f"{_ADDRESS}{known.file}")]
    if known is PUBLISHED["gpt2"]:
        files.append(_cached(_GPT2_MERGES))
    for folder in [*(Path(folder) for folder in named if folder), ours, tiktokens]:
        for file in files:
            if (folder / file).is_file():
                return folder / file
    raise MissingFileError(
        f"the ranks of {name} are not on this machine, and nothing is downloaded: put "
        f"{_ADDRESS}{known.file} (SHA-256 {known.sha256}) into {ours}, or let TIKTOKEN_CACHE_DIR "
        f"name the folder that has it"
    )


def _cached(address: str) -> str:
    """Return the name of a file in tiktoken's cache."""
    return hashlib.sha1(address.encode(), usedforsecurity=False).hexdigest()
