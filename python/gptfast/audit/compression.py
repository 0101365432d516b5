"""Bytes of text per token, for a tokenizer and for two naive ones.

Each is reduced to the counts of its pieces of text. The naive tokenizers have one piece per
character and one piece per word.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from gptfast.tokenizer.base import Tokenizer
from gptfast.tokenizer.show import visible

# A word includes the space before it, as in GPT-2's pattern. Every character is part of a match.
_WORD = re.compile(r" ?\w+| ?[^\w\s]+|\s+")


@dataclass(frozen=True)
class Compression:
    """A text under one tokenizer."""

    name: str
    n_vocab: int
    n_tokens: int
    bytes_per_token: float
    unknown: float
    """Share of the tokens that are not in the vocabulary; 0 for byte-level BPE."""
    longest: str
    """The longest token that the text needed, as `visible` shows it."""
    longest_bytes: int


def count_tokens(tokenizer: Tokenizer, texts: Iterable[str]) -> Counter[bytes]:
    """Return how often each token occurs in the encoded texts."""
    uses = np.zeros(tokenizer.n_vocab, dtype=np.int64)
    for text in texts:
        ids, n = np.unique(tokenizer.encode_to_numpy(text), return_counts=True)
        uses[ids] += n
    return Counter({tokenizer.token_bytes(int(i)): int(uses[i]) for i in uses.nonzero()[0]})


def count_characters(texts: Iterable[str]) -> Counter[bytes]:
    """Return how often each character occurs."""
    return _encoded(Counter(char for text in texts for char in text))


def count_words(texts: Iterable[str]) -> Counter[bytes]:
    """Return how often each word, run of punctuation and run of white space occurs."""
    return _encoded(Counter(word[0] for text in texts for word in _WORD.finditer(text)))


def _encoded(counts: Counter[str]) -> Counter[bytes]:
    return Counter({piece.encode(): n for piece, n in counts.items()})


def of_tokenizer(name: str, tokenizer: Tokenizer, counts: Counter[bytes]) -> Compression:
    """Return the measurements of a tokenizer, from the result of `count_tokens`."""
    return _compression(name, tokenizer.n_vocab, counts, n_unknown=0)


def of_naive(name: str, counts: Counter[bytes], learned: Counter[bytes]) -> Compression:
    """Return the measurements of a naive tokenizer whose vocabulary is the pieces in `learned`.

    An unknown piece counts as one token, which flatters a tokenizer with many of them.
    """
    n_unknown = sum(n for piece, n in counts.items() if piece not in learned)
    return _compression(name, len(learned), counts, n_unknown)


def _compression(name: str, n_vocab: int, counts: Counter[bytes], n_unknown: int) -> Compression:
    n_tokens = counts.total()
    longest = max(counts, key=len)
    return Compression(
        name=name,
        n_vocab=n_vocab,
        n_tokens=n_tokens,
        bytes_per_token=sum(len(piece) * n for piece, n in counts.items()) / n_tokens,
        unknown=n_unknown / n_tokens,
        longest=visible(longest),
        longest_bytes=len(longest),
    )


def bytes_per_token(tokenizer: Tokenizer, texts: Sequence[str]) -> float:
    """Return the mean number of UTF-8 bytes per token of the texts."""
    n_tokens = sum(len(tokenizer.encode_to_numpy(text)) for text in texts)
    return sum(len(text.encode()) for text in texts) / n_tokens
