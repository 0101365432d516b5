"""How much of val's text occurs in train, by samples of the tokens."""

from __future__ import annotations

import numpy as np

from gptfast.data.dataset import Mixture, TokenSource
from gptfast.data.split import overlap
from gptfast.tokenizer import Tokenizer

SAMPLE_TOKENS = 8 << 20
_CHUNK_TOKENS = 1 << 16


def sample(tokens: TokenSource, tokenizer: Tokenizer, n: int) -> list[str]:
    """Texts of about `n` tokens, in chunks that are spread evenly over all of them.

    A text is a document, or what of it lies in a chunk.
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
        # A chunk may begin or end inside of a character.
        texts += (tokenizer.decode(document, errors="ignore") for document in documents)
    return texts


def from_the_others(data: Mixture, n: int = SAMPLE_TOKENS // 8) -> list[float]:
    """For each corpus of a mixture, the share of its val that occurs in the others' train parts.

    Of windows of 50 bytes, as `overlap` compares them, in samples of about `n` tokens of each.
    """
    train, val = (
        [sample(tokens, data.tokenizer, n) for tokens in side]
        for side in zip(*((part.train, part.val) for part in data.parts), strict=True)
    )
    return [
        overlap([text for j, texts in enumerate(train) if j != i for text in texts], val[i])
        for i in range(len(data.parts))
    ]
