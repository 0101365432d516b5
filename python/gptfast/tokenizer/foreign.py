"""Tell what a file is that is not the tokenizer asked for, and what to do with it."""

from __future__ import annotations

import json
import re
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
    (
        rb"\xff\xfe|\xfe\xff|[^\0]\0[^\0]\0|\0[^\0]\0[^\0]",
        "UTF-16 text: convert it with `iconv -f utf-16 -t utf-8`",
    ),
    (rb"(?i)\s*<(!doctype|html|\?xml)", "a web page: download the file itself"),
    (
        rb"#version",
        "a merges.txt: give the folder that has it and its vocab.json to BPETokenizer.from_hf",
    ),
    # A protocol buffer: a message of at most 127 bytes, which begins with a string and a float.
    (
        rb"\n[\x00-\x7f]\n(?P<n>[\x00-\x7f])",
        "a SentencePiece model, which is no byte-level BPE: give the tokenizer.json beside it to "
        "BPETokenizer.from_hf if that is one, or train a tokenizer",
    ),
    (
        rb"<(unk|pad|s)>\t-?[0-9]",
        "the vocabulary of a SentencePiece model, which is no byte-level BPE: train a tokenizer",
    ),
    (rb"\[(PAD|UNK)\]\s", "a WordPiece vocab.txt, which is no byte-level BPE: train a tokenizer"),
    (rb".{8}\{\"", "a safetensors file, which holds weights: give a tokenizer's file"),
]


def what_it_is(data: bytes) -> str | None:
    """Return what the contents of a file are, a colon and what to do; None if they may be ranks."""
    data = data.removeprefix(b"\xef\xbb\xbf")
    if not data.strip():
        return "empty: fetch or write it again"
    for beginning, what in _BEGINNINGS:
        match = re.match(beginning, data, re.DOTALL)
        if match and ("n" not in match.groupdict() or _is_piece(data, match["n"][0])):
            return what
    if data.lstrip()[:1] in (b"{", b"["):
        try:
            return what_json_is(json.loads(data))
        except (ValueError, RecursionError):
            return "JSON, and damaged: fetch it again"
    return None


def what_no_json_is(data: bytes) -> str | None:
    """Return what the contents of a file that is not JSON are, as `what_it_is` does."""
    if re.match(rb"[A-Za-z0-9+/]+={0,2} [0-9]+\s", data):
        return "a tiktoken rank file: give it to BPETokenizer.from_tiktoken"
    return None if data.lstrip().startswith((b"{", b"[")) else what_it_is(data)


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
            return (
                "a tekken.json, no rank file: write a line of token_bytes, a space and rank for "
                "each of its vocab, and give its config.pattern as the pattern"
            )
        case dict() if data and all(isinstance(value, int) for value in data.values()):
            return (
                "a vocab.json: give the folder that has it and its merges.txt to "
                "BPETokenizer.from_hf"
            )
        case _:
            return "JSON that holds no ranks: give the tokenizer.json beside it to load_tokenizer"
