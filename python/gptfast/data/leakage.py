"""Estimate how much val text occurs in train, from samples of the tokens."""

from __future__ import annotations

import numpy as np

from gptfast.data.dataset import Mixture, TokenSource
from gptfast.data.split import overlap
from gptfast.tokenizer import Tokenizer

SAMPLE_TOKENS = 8 << 20
_CHUNK_TOKENS = 1 << 16


def sample(tokens: TokenSource, tokenizer: Tokenizer, n: int) -> list[str]:
    """Return texts of about `n` tokens in total, from chunks spread evenly over the tokens.

    A text is a document, or the part of a document inside a chunk.
    """
    starts = np.arange(0, len(tokens), _CHUNK_TOKENS)
    n_chunks = max(n // _CHUNK_TOKENS, 1)
    if len(starts) > n_chunks:
        starts = starts[np.linspace(0, len(starts) - 1, n_chunks).astype(int)]
    end = tokenizer.n_vocab if tokenizer.eot_token is None else tokenizer.eot_token  # or no id
    texts: list[str] = []
    for start in starts:
        ids = tokens[np.arange(start, min(start + _CHUNK_TOKENS, len(tokens)))]
        is_end = ids == end
        documents = np.split(ids[~is_end], np.flatnonzero(is_end) - np.arange(is_end.sum()))
        # A chunk may begin or end inside a character.
        texts += (tokenizer.decode(document).strip("\ufffd") for document in documents)
    return texts


def from_the_others(data: Mixture, n: int = SAMPLE_TOKENS // 8) -> list[float]:
    """Return, for each corpus of a mixture, the share of its val that others' train parts contain.

    The share is of 50-byte windows, as in `overlap`, in samples of about `n` tokens of each part.
    """
    train, val = (
        [sample(tokens, data.tokenizer, n) for tokens in side]
        for side in zip(*((part.train, part.val) for part in data.parts), strict=True)
    )
    return [
        overlap([text for j, texts in enumerate(train) if j != i for text in texts], val[i])
        for i in range(len(data.parts))
    ]
