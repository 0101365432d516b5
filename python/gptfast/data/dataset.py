"""Prepared data sets: the token ids of the train and val parts, and their tokenizer."""

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
    """Map the ids of a shard into memory, after checking each: shape (count,), read-only.

    Raises UserError if another tokenizer made the shard, or if an id is outside the vocabulary. In
    a training step, such an id would crash the run or read out of bounds without naming the shard.
    """
    ids = shard.tokens(tokenizer)
    for start in range(0, len(ids), _IDS_AT_A_TIME):
        largest = int(ids[start : start + _IDS_AT_A_TIME].max())
        if largest >= tokenizer.n_vocab:
            raise UserError(
                f"{shard.path} is damaged: it has the id {largest:,}, expected ids below "
                f"{tokenizer.n_vocab:,}, the size of the vocabulary: write the shard again"
            )
    return ids


class TokenShards:
    """The ids of several shards as one read-only array, mapped into memory."""

    def __init__(self, shards: Sequence[Shard], tokenizer: Tokenizer) -> None:
        """Open the shards, in this order. Raises UserError as `open_tokens` does."""
        self._shards = [open_tokens(shard, tokenizer) for shard in shards]
        # The end of each shard's ids in the combined array.
        self._ends = np.cumsum([len(ids) for ids in self._shards], dtype=np.int64)

    def __repr__(self) -> str:
        return f"TokenShards({len(self):,} ids in {len(self._shards)} shards)"

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, places: NDArray[np.int64]) -> NDArray[np.uint32]:
        """Return the ids at `places`, an array of any shape with indices from 0 to len - 1."""
        ids = np.empty(places.shape, dtype=np.uint32)
        if not places.size:
            return ids
        least, most = places.min(), places.max()
        if least < 0 or most >= len(self):
            raise IndexError(f"expected places from 0 to {len(self) - 1}")
        first, last = np.searchsorted(self._ends, (least, most), side="right")
        if first == last:  # as a rule: then the shard of each need not be found
            ids[...] = self._shards[first][places - (self._ends[first] - len(self._shards[first]))]
            return ids
        shard_of = np.searchsorted(self._ends, places, side="right")
        for i in np.unique(shard_of):
            here = shard_of == i
            start = self._ends[i] - len(self._shards[i])
            ids[here] = self._shards[i][places[here] - start]
        return ids


TokenSource: TypeAlias = Tokens | TokenShards
"""Ids to take windows from: one array, or several shards."""


@dataclass(frozen=True)
class DataReport:
    """The origin and the sizes of a data set. Text is measured in bytes of UTF-8."""

    corpus: str
    corpus_sha256: str
    train_documents: int
    train_bytes: int
    train_tokens: int
    val_documents: int
    val_bytes: int
    val_tokens: int
    overlap: float
    """Share of val's 50-byte windows that also occur in train. For a corpus made by `gptfast data
    prepare`, this is an estimate from samples of both parts."""


@dataclass(frozen=True)
class Dataset:
    """A prepared corpus: the ids of the train and val parts, and their tokenizer."""

    folder: Path
    tokenizer: Tokenizer
    train: TokenSource
    val: TokenSource
    report: DataReport

    @property
    def val_bytes_per_token(self) -> float:
        """Bytes of val text per token. End-of-text tokens count as tokens."""
        return self.report.val_bytes / self.report.val_tokens


def is_prepared(folder: Path) -> bool:
    """Return whether `gptfast data prepare` has written this folder to the end."""
    return (folder / "data.json").is_file()


@dataclass(frozen=True)
class Mixture:
    """The data of a run: one or more prepared corpora that share a tokenizer."""

    parts: tuple[Dataset, ...]
    weights: tuple[float, ...]
    """Each part's share of the tokens trained on; they sum to 1."""

    @classmethod
    def of(cls, parts: Sequence[Dataset], weights: Sequence[float] = ()) -> Mixture:
        """Mix the parts by `weights`, in any unit. The default is their numbers of train tokens.

        Raises UserError if the tokenizers differ.
        """
        for part in parts[1:]:
            if part.tokenizer.fingerprint != parts[0].tokenizer.fingerprint:
                raise UserError(
                    f"{part.report.corpus} was prepared with another tokenizer than "
                    f"{parts[0].report.corpus}: prepare both with the same tokenizer, or give "
                    f"--tokenizer {part.folder} if the latter is a text"
                )
        sizes = weights or [len(part.train) for part in parts]
        return cls(tuple(parts), tuple(size / sum(sizes) for size in sizes))

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of all parts."""
        return self.parts[0].tokenizer

    def mean(self, values: Sequence[float]) -> float:
        """Return the weighted mean of `values`, one per part."""
        return sum(w * value for w, value in zip(self.weights, values, strict=True))

    @property
    def val_bytes_per_token(self) -> float:
        """Bytes of val text per token of the mixture."""
        return self.mean([part.val_bytes_per_token for part in self.parts])
