"""How many bytes of text a token stands for: a tokenizer beside the two naive ones.

Every way of cutting text is a count of pieces here: which bytes, how often. The naive ones are one
piece for each character and one for each word.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from gptfast.tokenizer.base import Tokenizer
from gptfast.tokenizer.show import visible

# A word takes the space before it along, as in GPT-2's pattern, and no text is left out.
_WORD = re.compile(r" ?\w+| ?[^\w\s]+|\s+")


@dataclass(frozen=True)
class Compression:
    """A text under one tokenizer."""

    name: str
    n_vocab: int
    n_tokens: int
    bytes_per_token: float
    unknown: float
    """Share of the tokens that are not in the vocabulary; byte-level BPE knows no such thing."""
    longest: str
    """The longest token that the text needed, as `visible` shows it."""
    longest_bytes: int


def count_tokens(tokenizer: Tokenizer, texts: Iterable[str]) -> Counter[bytes]:
    """Return how often each token of the tokenizer is needed for the texts."""
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
    """Return what `count_tokens` says about the text that it counted."""
    return _compression(name, tokenizer.n_vocab, counts, n_unknown=0)


def of_naive(name: str, counts: Counter[bytes], learned: Counter[bytes]) -> Compression:
    """Return what one of the naive counts says, if the pieces in `learned` are the vocabulary.

    An unknown piece counts as one token, which flatters whoever has many of them.
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
    """Return the bytes of UTF-8 that a token of the texts stands for on average."""
    n_tokens = sum(len(tokenizer.encode_to_numpy(text)) for text in texts)
    return sum(len(text.encode()) for text in texts) / n_tokens
