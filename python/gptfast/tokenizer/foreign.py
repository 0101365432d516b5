"""Tell what a file is that is not the tokenizer asked for, and what to do with it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

# How a file of another kind begins, and what it is.
_BEGINNINGS = [
    (
        rb"version https://git-lfs",
        "a Git LFS pointer, not the file itself: fetch the file with `git lfs pull`",
    ),
    (rb"\x1f\x8b", "compressed by gzip: decompress it with `gunzip`"),
    (rb"\x28\xb5\x2f\xfd", "compressed by zstd: decompress it with `unzstd`"),
    (rb"\xfd7zXZ", "compressed by xz: decompress it with `unxz`"),
    (rb"BZh", "compressed by bzip2: decompress it with `bunzip2`"),
    (rb"PK\x03\x04", "a zip archive, such as a PyTorch checkpoint: give a file in it"),
    (rb"GGUF", "a GGUF file, which holds weights: give the tokenizer.json of the same model"),
    (
        rb"\x80[\2-\5]",
        "a Python pickle, which may run code: give a tokenizer's file",
    ),
    (rb"%PDF-", "a PDF file: give a tokenizer's file"),
    (
        rb"\xff\xfe\0\0|\0\0\xfe\xff|([^\0]\0\0\0){2}|(\0\0\0[^\0]){2}",
        "UTF-32 text: convert it with `iconv -f utf-32 -t utf-8`",
    ),
    (
        rb"\xff\xfe|\xfe\xff|[^\0]\0[^\0]\0|\0[^\0]\0[^\0]",
        "UTF-16 text: convert it with `iconv -f utf-16 -t utf-8`",
    ),
    (
        rb"(?i)40[1349]:? |((entry|repository) )?not found|invalid username|access (to|denied)",
        "a server's error message: download the file again",
    ),
    (rb"(?i)\s*<(!doctype|html|\?xml)", "a web page: download the file itself"),
    (
        rb"#version",
        "a merges.txt: give the folder that has it and its vocab.json to BPETokenizer.from_hf",
    ),
    # A protocol buffer: a message of at most 127 bytes, which begins with a string and a float.
    (
        rb"\n[\x00-\x7f]\n(?P<n>[\x00-\x7f])",
        "a SentencePiece model, which is not read: give the tokenizer.json beside it to "
        "load_tokenizer; transformers makes one",
    ),
    (
        rb"<(unk|pad|s)>\t-?[0-9]",
        "the vocabulary of a SentencePiece model, which is no byte-level BPE: train a tokenizer",
    ),
    (rb"\[(PAD|UNK)\]\s", "a WordPiece vocab.txt, which is no byte-level BPE: train a tokenizer"),
    (rb".{4}\0{4}\{\"", "a safetensors file, which holds weights: give a tokenizer's file"),
]

# The names of the files of tokenizers that have no tokenizer.json.
_FILES = (
    "tekken.json", "*.tiktoken", "*.model", "vocab.json", "merges.txt", "vocab.bpe", "vocab.txt",
    "*.gguf", "tokenizer.json.*",
)  # fmt: skip
_MOST_BYTES = 1 << 26  # more than a tokenizer's file has


def what_it_is(data: bytes) -> str | None:
    """Return what the contents of a file are, a colon and what to do; None if they may be ranks."""
    data = data.removeprefix(b"\xef\xbb\xbf")
    if what := _by_beginning(data):
        return what
    if data.lstrip()[:1] in (b"{", b"["):
        return _what_like_json_is(data)
    return None


def what_no_json_is(data: bytes) -> str | None:
    """Return what the contents of a file that is not JSON are, as `what_it_is` does."""
    data = data.removeprefix(b"\xef\xbb\xbf")
    if re.match(rb"\s*[A-Za-z0-9+/]+={0,2}[ \t]+[0-9]+\s", data):
        return "a tiktoken rank file: give it to BPETokenizer.from_tiktoken"
    return _by_beginning(data) or _json_lines(data)


def _by_beginning(data: bytes) -> str | None:
    if not data.strip():
        return "empty: fetch or write it again"
    for beginning, what in _BEGINNINGS:
        match = re.match(beginning, data, re.DOTALL)
        if match and ("n" not in match.groupdict() or _is_piece(data, match["n"][0])):
            return what
    if b"\0" in data[:4096]:
        return "binary data: give a tokenizer's file"
    return None


def _what_like_json_is(data: bytes) -> str:
    try:
        return what_json_is(json.loads(data))
    except (ValueError, RecursionError):
        return _json_lines(data) or "JSON, and damaged: fetch it again"


def _json_lines(data: bytes) -> str | None:
    lines = data.strip().split(b"\n", 2)
    try:
        values = [json.loads(line) for line in lines[:2]]
    except (ValueError, RecursionError):
        return None
    if len(values) < 2 or not all(isinstance(value, (dict, list)) for value in values):
        return None
    return "JSON lines, such as documents to learn from, and no tokenizer: give a tokenizer's file"


def what_lies_there(folder: Path) -> str | None:
    """Return which of the files of a tokenizer a folder has, and what it is; None if it has none.

    The folder has no tokenizer.json.
    """
    if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        return f"{folder} has a vocab.json and a merges.txt: give it to BPETokenizer.from_hf"
    found = (path for name in _FILES for path in sorted(folder.glob(name)) if path.is_file())
    for path in found:
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES)
        if what := what_no_json_is(data) or what_it_is(data):
            return f"{path} is {what}"
    return None


def _is_piece(data: bytes, n: int) -> bool:
    """Return whether a float (wire type 5 of field 2) follows the `n` bytes of a string."""
    return data[4 + n : 5 + n] == b"\x15"


def what_json_is(data: Any) -> str:
    """Return what the contents of a JSON file are, a colon and what to do."""
    match data:
        case {"model": dict()}:
            return (
                "a tokenizer.json, no rank file: give it to load_tokenizer or BPETokenizer.from_hf"
            )
        case {"vocab": [{"token_bytes": _}, *_]}:
            return "a tekken.json, no rank file: give it to load_tokenizer or BPETokenizer.from_hf"
        case dict() if data and all(isinstance(value, int) for value in data.values()):
            return (
                "a vocab.json: give the folder that has it and its merges.txt to "
                "BPETokenizer.from_hf"
            )
        case _:
            return "JSON that holds no ranks: give the tokenizer.json beside it to load_tokenizer"
