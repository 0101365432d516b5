"""Losses of models without any training, to see how much a model has learned.

V vocabulary, N train tokens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gptfast.data.dataset import Dataset, TokenSource

MAX_TOKENS = 20_000_000
"""Train or val tokens that are counted, from the beginning."""

Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Baseline:
    """A model that only counts, and its loss."""

    name: str
    what: str
    """What it knows."""
    loss: float
    """Mean cross entropy in nats per token."""


def uniform(n_vocab: int) -> Baseline:
    """Return the loss of a guess that knows nothing but the size of the vocabulary."""
    return Baseline("uniform", f"nothing but that there are {n_vocab:,} tokens", math.log(n_vocab))


def counted(data: Dataset) -> list[Baseline]:
    """Return the losses of unigram and bigram over the val part, counted in the train part."""
    train, val = _ids(data.train), _ids(data.val)
    unigram, bigram = count_losses(train, val, data.tokenizer.n_vocab)
    return [
        Baseline("unigram", "how often each token occurs in the train text", unigram),
        Baseline("bigram", "how often each token follows the one before it", bigram),
    ]


def count_losses(train: Ids, val: Ids, n_vocab: int) -> tuple[float, float]:
    """Return the losses of unigram and bigram in nats per token, over all val tokens but the first.

    Unigram counts are smoothed by 1. The bigram falls back on the unigram with Witten and Bell's
    weight, the number of distinct tokens that follow (Witten and Bell, 1991):
    p(b | a) = (n(a b) + T(a) p(b)) / (n(a) + T(a)).
    """
    n_V = np.bincount(train, minlength=n_vocab)
    p_V = (n_V + 1) / (len(train) + n_vocab)
    pairs, n_pairs = np.unique(train[:-1] * n_vocab + train[1:], return_counts=True)
    n_followed_V = np.bincount(train[:-1], minlength=n_vocab)
    n_distinct_V = np.bincount(pairs // n_vocab, minlength=n_vocab)
    before, token = val[:-1], val[1:]
    wanted = before * n_vocab + token
    place = np.minimum(np.searchsorted(pairs, wanted), len(pairs) - 1)
    n_pair = np.where(pairs[place] == wanted, n_pairs[place], 0)
    weight = n_distinct_V[before]
    seen = n_followed_V[before] + weight
    p = (n_pair + weight * p_V[token]) / np.maximum(seen, 1)
    p = np.where(seen > 0, p, p_V[token])  # nothing is known of what follows
    return float(-np.log(p_V[token]).mean()), float(-np.log(p).mean())


def _ids(tokens: TokenSource) -> Ids:
    return tokens[np.arange(min(len(tokens), MAX_TOKENS))].astype(np.int64)
