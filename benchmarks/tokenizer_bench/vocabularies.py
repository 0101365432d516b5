"""The published vocabularies: their patterns, their rank files, and a `tokenizer.json` of each."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gptfast.tokenizer.spelling import byte_level_alphabet

END_OF_TEXT = "<|endoftext|>"


@dataclass(frozen=True)
class Vocabulary:
    """What a rank file does not say of itself."""

    sha256: str
    """Of the rank file; whatever it is called, it is found by this."""
    pattern: str
    """As published."""
    spelled_plainly: str | None = None
    """The same for engines without possessive quantifiers, but for white space at a text's end."""
    gigatoken: str | None = None
    """gigatoken's name of the pattern; None if it has to read a `tokenizer.json`."""
    tiktoken: str | None = None
    """The encoding's name in tiktoken, for libraries that know only names."""

    @property
    def plain(self) -> str:
        return self.spelled_plainly or self.pattern


GPT2_PATTERN = (
    r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"  # as tiktoken has it
)
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_ENDING = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"

VOCABULARIES = {
    "gpt2": Vocabulary(
        "306cd27f03c1a714eca7108e03d66b7dc042abe8c258b44c199a7ed9838dd930",
        GPT2_PATTERN,
        gigatoken="gpt2",
        tiktoken="r50k_base",
    ),
    "cl100k": Vocabulary(
        "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+"
        r"|\s++$|\s*[\r\n]|\s+(?!\S)|\s",
        _LLAMA3,
        "gpt4",
        "cl100k_base",
    ),
    "o200k": Vocabulary(
        "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d",
        rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_ENDING}"
        rf"|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_ENDING}"
        r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        gigatoken="o200k",
        tiktoken="o200k_base",
    ),
    "llama3": Vocabulary(
        "82e9d31979e92ab929cd544440f129d9ecd797b69e327f80f17e1c50d5551b55", _LLAMA3
    ),
    "qwen2": Vocabulary(
        "b2b1b8dfb5cc5f024bafc373121c6aba3f66f9a5a0269e243470a1de16a33186",
        _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}"),
        gigatoken="qwen2",
    ),
}


def find_ranks(folder: Path) -> dict[str, Path]:
    """Return where the rank files of VOCABULARIES are, of those that are in the folder."""
    names = {vocabulary.sha256: name for name, vocabulary in VOCABULARIES.items()}
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        is_possible = path.is_file() and 500_000 < path.stat().st_size < 10_000_000
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest() if is_possible else ""
        if sha256 in names:
            found[names[sha256]] = path
    return found


def tokenizer_json(ranks: dict[bytes, int], pattern: str, special_tokens: dict[str, int]) -> str:
    """Return a `tokenizer.json` with the ids of tiktoken.

    Its merges are all pairs of tokens that make a token, by its rank, as transformers lists them.
    """
    alphabet = byte_level_alphabet()
    spelled = {token: "".join(map(alphabet.__getitem__, token)) for token in ranks}
    merges: list[list[str]] = []
    for token in sorted(ranks, key=ranks.__getitem__):
        splits = [(token[:i], token[i:]) for i in range(1, len(token))]
        pairs = [(a, b) for a, b in splits if a in ranks and b in ranks]
        pairs.sort(key=lambda pair: (ranks[pair[0]], ranks[pair[1]]))
        merges += [[spelled[left], spelled[right]] for left, right in pairs]
    flags = dict.fromkeys(["single_word", "lstrip", "rstrip", "normalized"], False)
    byte_level = {
        "type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False
    }  # fmt: skip
    split = {
        "type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False
    }  # fmt: skip
    model: dict[str, Any] = dict.fromkeys(
        ["dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix"]
    )
    model |= {"type": "BPE", "fuse_unk": False, "byte_fallback": False, "ignore_merges": True}
    model |= {"vocab": {spelled[token]: rank for token, rank in ranks.items()}, "merges": merges}
    data = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": i, "content": name, **flags, "special": True}
            for name, i in special_tokens.items()
        ],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
        "post_processor": None,
        "decoder": byte_level,
        "model": model,
    }
    return json.dumps(data, ensure_ascii=False)
