"""The rank files that tiktoken publishes: what they leave out, known by what is in them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from gptfast.tokenizer.formats import tiktoken_lines

_END_OF_TEXT = "<|endoftext|>"


@dataclass(frozen=True)
class KnownRanks:
    """What a rank file doesn't say."""

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

    Their number says little: a trained vocabulary can have as many.
    """
    return _PUBLISHED.get(hashlib.sha256(tiktoken_lines(ranks).encode()).hexdigest())
