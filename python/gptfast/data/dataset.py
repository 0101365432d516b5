"""Train and val tokens with the tokenizer that made them, whatever they were made from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from gptfast.data.shard import Shard, Tokens
from gptfast.errors import UserError
from gptfast.tokenizer import Tokenizer

_IDS_AT_A_TIME = 1 << 20


def open_tokens(shard: Shard, tokenizer: Tokenizer) -> Tokens:
    """Map a shard's ids into memory, after looking at each: shape (count,), read-only.

    Raises UserError if another tokenizer made them, or if one is none of the tokenizer's ids: in a
    training step it would end the run, or read another's memory, without a word about the shard.
    """
    ids = shard.tokens(tokenizer)
    for start in range(0, len(ids), _IDS_AT_A_TIME):
        largest = int(ids[start : start + _IDS_AT_A_TIME].max())
        if largest >= tokenizer.n_vocab:
            raise UserError(
                f"{shard.path} is damaged: it has the id {largest:,}, expected ids below "
                f"{tokenizer.n_vocab:,}, the size of the vocabulary: make it again"
            )
    return ids


class TokenShards:
    """The ids of several shards as if they were one array: mapped into memory, read-only."""

    def __init__(self, shards: Sequence[Shard], tokenizer: Tokenizer) -> None:
        """Open the shards, in this order. Raises UserError as `open_tokens` does."""
        self._shards = [open_tokens(shard, tokenizer) for shard in shards]
        # Where in the one array the ids of each shard end.
        self._ends = np.cumsum([len(ids) for ids in self._shards], dtype=np.int64)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, places: NDArray[np.int64]) -> NDArray[np.uint32]:
        """Return the ids at `places`, integers from 0 to len - 1 in an array of any shape."""
        if places.size and (places.min() < 0 or places.max() >= len(self)):
            raise IndexError(f"expected places from 0 to {len(self) - 1}")
        ids = np.empty(places.shape, dtype=np.uint32)
        shard_of = np.searchsorted(self._ends, places, side="right")
        for i in np.unique(shard_of):
            here = shard_of == i
            start = self._ends[i] - len(self._shards[i])
            ids[here] = self._shards[i][places[here] - start]
        return ids


TokenSource: TypeAlias = Tokens | TokenShards
"""Ids of which a batch of windows can be taken: one array, or several shards."""


@dataclass(frozen=True)
class DataReport:
    """What a data set was made of. Sizes of text in bytes of UTF-8."""

    corpus: str
    corpus_sha256: str
    train_documents: int
    train_bytes: int
    train_tokens: int
    val_documents: int
    val_bytes: int
    val_tokens: int
    overlap: float
    """Share of val's 50-byte windows that also occur in train; an estimate, from samples of both,
    where `gptfast data prepare` made the corpus."""


@dataclass(frozen=True)
class Dataset:
    """A prepared corpus: ids of train and val, and the tokenizer that made them."""

    folder: Path
    tokenizer: Tokenizer
    train: TokenSource
    val: TokenSource
    report: DataReport

    @property
    def val_bytes_per_token(self) -> float:
        """Bytes of val text that a token stands for, end-of-text tokens counted."""
        return self.report.val_bytes / self.report.val_tokens


@dataclass(frozen=True)
class Mixture:
    """What a run trains on: one prepared corpus or several, made with the same tokenizer."""

    parts: tuple[Dataset, ...]
    weights: tuple[float, ...]
    """Each part's share of the tokens trained on; they sum to 1."""

    @classmethod
    def of(cls, parts: Sequence[Dataset], weights: Sequence[float] = ()) -> Mixture:
        """Mix the parts by `weights`, in any unit; unless given, by their numbers of train tokens.

        Raises UserError if the tokenizers differ.
        """
        for part in parts[1:]:
            if part.tokenizer.fingerprint != parts[0].tokenizer.fingerprint:
                raise UserError(
                    f"{part.report.corpus} was prepared with another tokenizer than "
                    f"{parts[0].report.corpus}: prepare both with the same, or give --tokenizer "
                    f"{part.folder} if that one is a text"
                )
        sizes = weights or [len(part.train) for part in parts]
        return cls(tuple(parts), tuple(size / sum(sizes) for size in sizes))

    @property
    def tokenizer(self) -> Tokenizer:
        """The one that made all parts."""
        return self.parts[0].tokenizer

    def mean(self, values: Sequence[float]) -> float:
        """The mean of one value per part, each with its part's weight."""
        return sum(w * value for w, value in zip(self.weights, values, strict=True))

    @property
    def val_bytes_per_token(self) -> float:
        """Bytes of val text per token of the mixture."""
        return self.mean([part.val_bytes_per_token for part in self.parts])
