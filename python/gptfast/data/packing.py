"""Pack short sequences into the rows of a batch, each sequence a document of its own.

Legend: B batch, T time (block_size).
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from gptfast.data.batch import IGNORED, Batch
from gptfast.data.shuffled import ShuffledSource
from gptfast.errors import UserError


@dataclass(frozen=True)
class Example:
    """A sequence of tokens to learn from."""

    ids: NDArray[np.int64]
    """Token ids, (n,)."""
    is_target: NDArray[np.bool_]
    """Which of them are to be predicted, (n,). The first one can't be."""


def best_fit(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Assign sequences to rows of `capacity` tokens; return the indices of each row's sequences.

    The longest sequence goes first, into the row that it fills best (best-fit decreasing; Johnson,
    "Near-optimal bin packing algorithms", 1973). Equal lengths keep their order. Raises ValueError
    for a sequence that is longer than a row.
    """
    rows: list[list[int]] = []
    spaces: list[tuple[int, int]] = []  # (free tokens, row) of each row with space, sorted
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if lengths[i] > capacity:
            raise ValueError(f"sequence {i} has {lengths[i]} tokens, a row has {capacity}")
        at = bisect_left(spaces, (lengths[i], 0))
        if at < len(spaces):
            free, row = spaces.pop(at)
            rows[row].append(i)
        else:
            free, row = capacity, len(rows)
            rows.append([i])
        if free > lengths[i]:
            insort(spaces, (free - lengths[i], row))
    return rows


class PackedRows:
    """Examples in rows of block_size + 1 tokens, as inputs and their targets.

    No example is cut, and each is in one row. In a batch, each is a document, which sees no other.
    Targets that are not an example's own are IGNORED, and so is what fills up a row.
    """

    def __init__(self, examples: Sequence[Example], block_size: int, fill: int) -> None:
        """Pack the examples.

        fill: the id that fills up rows. Raises ValueError for an example that is longer than a row.
        """
        self.examples, self.block_size, self.fill = examples, block_size, fill
        lengths = [len(example.ids) for example in examples]
        self.rows = best_fit(lengths, block_size + 1)
        self.n_tokens = sum(lengths)
        self.n_targets = sum(int(example.is_target[1:].sum()) for example in examples)

    def __repr__(self) -> str:
        return f"PackedRows({len(self.examples):,} examples in {len(self):,} rows)"

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.rows)

    @property
    def share_used(self) -> float:
        """The share of the rows' tokens that are an example's."""
        return self.n_tokens / (len(self) * (self.block_size + 1))

    @property
    def sha256(self) -> str:
        """A checksum of the examples and their order."""
        digest = hashlib.sha256()
        for example in self.examples:
            digest.update(np.array(len(example.ids)).tobytes())
            digest.update(example.ids.tobytes() + example.is_target.tobytes())
        return digest.hexdigest()

    def batch(self, numbers: Sequence[int] | NDArray[np.int64]) -> Batch:
        """Return the rows with these numbers: ids and targets, int64 (B, T)."""
        B, T = len(numbers), self.block_size
        tokens = np.full((B, T + 1), self.fill, dtype=np.int64)
        is_target = np.zeros((B, T + 1), dtype=np.bool_)
        starts = np.zeros((B, T + 1), dtype=np.bool_)
        for b, number in enumerate(numbers):
            end = 0
            for i in self.rows[number]:
                example, begin, end = self.examples[i], end, end + len(self.examples[i].ids)
                tokens[b, begin:end] = example.ids
                is_target[b, begin + 1 : end] = example.is_target[1:]
                starts[b, begin] = True
            starts[b, end : end + 1] = True  # what fills up the row is a document, too
        targets = np.where(is_target, tokens, IGNORED)[:, 1:]
        # NumPy copies, because PyTorch would start a second set of OpenMP threads in this thread.
        x, y, starts = (np.ascontiguousarray(a) for a in (tokens[:, :-1], targets, starts[:, :-1]))
        return Batch(torch.from_numpy(x), torch.from_numpy(y), torch.from_numpy(starts))

    def batches(self, batch_size: int, max_rows: int | None = None) -> list[Batch]:
        """Return all rows, or at most `max_rows` of them, spread evenly."""
        numbers = np.arange(len(self))
        if max_rows is not None and max_rows < len(self):
            numbers = np.linspace(0, len(self) - 1, max_rows).astype(np.int64)
        return [self.batch(numbers[i : i + batch_size]) for i in range(0, len(numbers), batch_size)]


def packed_source(rows: PackedRows, batch_size: int, seed: int, fingerprint: str) -> ShuffledSource:
    """Return a source that visits every row once per epoch. Raise UserError if it has no target.

    fingerprint: a checksum of the data, the tokenizer and the model to start from.
    """
    if not rows.n_targets:
        raise UserError("the data have no answer to learn from")
    return ShuffledSource(
        len(rows), batch_size, seed, lambda numbers, _: rows.batch(numbers), 0, fingerprint
    )
