"""Batches of token windows; the position is state, so that a run can go on where it stopped."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray

from gptfast.data.batch import Batch
from gptfast.data.dataset import TokenSource
from gptfast.errors import UserError


class CorpusState(TypedDict):
    """Where a Loader stands in one of its corpora."""

    epoch: int
    position: int
    """Windows of this epoch that were taken."""
    taken: int
    """Windows of all epochs that were taken."""


class Loader:
    """Shuffled windows of the train tokens of one or several sources.

    A source's epoch cuts its tokens into windows of block_size tokens that don't overlap, beginning
    at a random offset so that the cuts differ from epoch to epoch, and visits them in random order,
    each once. Both depend on (seed, epoch, number of the source) alone. The next window is always
    taken from the source that is furthest behind its share of all windows so far.
    """

    def __init__(
        self,
        sources: Sequence[TokenSource],
        block_size: int,
        batch_size: int,
        seed: int,
        weights: Sequence[float] | None = None,
        separator: int | None = None,
    ) -> None:
        """Open each source at its first window.

        weights: each source's share, in any unit; None for equal ones. separator: the id that a
        document begins with, where documents must not see one another.

        Raises UserError for a source too short, ValueError for another number of weights.
        """
        shares = np.ones(len(sources)) if weights is None else np.array(weights)
        if len(shares) != len(sources):
            raise ValueError(f"{len(shares)} weights for {len(sources)} sources")
        self.sources = [_Shuffled(s, block_size, (seed, i)) for i, s in enumerate(sources)]
        self.weights = shares / shares.sum()
        self.block_size = block_size
        self.batch_size = batch_size
        self.separator = separator

    def example(self) -> Batch:
        """Return a batch like those of `next_batch`, without moving the position."""
        starts = np.zeros(self.batch_size, dtype=np.int64)
        return windows(self.sources[0].tokens, starts, self.block_size, self.separator)

    def next_batch(self) -> Batch:
        """Return the next windows: ids and targets int64 (batch_size, block_size)."""
        taken = np.array([source.taken for source in self.sources])
        chosen = []
        for _ in range(self.batch_size):
            behind = self.weights * (taken.sum() + 1) - taken
            chosen.append(int(behind.argmax()))
            taken[chosen[-1]] += 1
        ids = np.empty((self.batch_size, self.block_size + 1), dtype=np.int64)
        for i, source in enumerate(self.sources):
            here = np.array(chosen) == i
            if here.any():
                ids[here] = source.take(int(here.sum()))
        return _batch(ids, self.separator)

    def state_dict(self) -> list[CorpusState]:
        """The position, to be saved with a checkpoint."""
        return [source.state_dict() for source in self.sources]

    def load_state_dict(self, state: Sequence[CorpusState]) -> None:
        """Go to a saved position."""
        for source, its_state in zip(self.sources, state, strict=True):
            source.load_state_dict(its_state)


class _Shuffled:
    """One source's windows, epoch after epoch."""

    def __init__(self, tokens: TokenSource, block_size: int, seed: tuple[int, int]) -> None:
        check_length(tokens, block_size, "train part of the corpus")
        self.tokens = tokens
        self.block_size = block_size
        self.seed = seed
        self.taken = 0
        self._start_epoch(0)

    def take(self, n: int) -> NDArray[np.int64]:
        """Return the next n windows and the token after each: (n, block_size + 1)."""
        starts: list[int] = []
        while len(starts) < n:
            if self.position >= len(self.starts):
                self._start_epoch(self.epoch + 1)
            new = self.starts[self.position : self.position + n - len(starts)]
            starts.extend(new)
            self.position += len(new)
        self.taken += n
        return _cut(self.tokens, np.array(starts), self.block_size)

    def state_dict(self) -> CorpusState:
        return {"epoch": self.epoch, "position": self.position, "taken": self.taken}

    def load_state_dict(self, state: CorpusState) -> None:
        self._start_epoch(state["epoch"])
        self.position, self.taken = state["position"], state["taken"]

    def _start_epoch(self, epoch: int) -> None:
        seed, number = self.seed
        rng = np.random.default_rng((seed, epoch, number))
        # The last window needs one token more: its last target.
        offset = int(rng.integers(min(self.block_size, len(self.tokens) - self.block_size)))
        self.starts = rng.permutation(
            np.arange(offset, len(self.tokens) - self.block_size, self.block_size)
        )
        self.epoch = epoch
        self.position = 0


class BatchSource(Protocol):
    """Makes batches, and can go back to where it stood."""

    def next_batch(self) -> Batch:
        """Return the next batch and move on."""

    def state_dict(self) -> Any:
        """Return the position, of JSON's types."""

    def load_state_dict(self, state: Any) -> None:
        """Go to a saved position."""


class Prefetcher:
    """A source whose next batch is made by a thread while the last one is trained on.

    Its position is that of the batches handed out; one that is still waiting doesn't count.
    """

    def __init__(self, source: BatchSource) -> None:
        self._source = source
        self._state = source.state_dict()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="loader")
        self._next = self._thread.submit(self._make)

    def next_batch(self) -> Batch:
        """Return the batch that is waiting, and have the next one made."""
        batch, self._state = self._next.result()
        self._next = self._thread.submit(self._make)
        return batch

    def state_dict(self) -> Any:
        """Return the source's position after the last batch handed out."""
        return self._state

    def load_state_dict(self, state: Any) -> None:
        """Move the source; the batch that is waiting is dropped."""
        self._next.exception()  # wait: the source must not be in use
        self._source.load_state_dict(state)
        self._state = self._source.state_dict()
        self._next = self._thread.submit(self._make)

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown()

    def _make(self) -> tuple[Batch, Any]:
        batch = self._source.next_batch()
        return batch, self._source.state_dict()


class EvalWindows(Sequence[Batch]):
    """The same windows of val tokens each time, none overlapping another, in batches.

    Without max_windows they cover the whole split: every token but the first is predicted exactly
    once, the last ones by a window that is shorter than the others.
    """

    def __init__(
        self,
        tokens: TokenSource,
        block_size: int,
        batch_size: int,
        max_windows: int | None = None,
        separator: int | None = None,
    ) -> None:
        """Choose the windows.

        max_windows: take only so many, spread evenly. separator: as the Loader's. Raises UserError
        if not even one window fits into the tokens.
        """
        check_length(tokens, block_size, "val part of the corpus")
        self.tokens, self.separator = tokens, separator
        starts = np.arange(0, len(tokens) - block_size, block_size)
        if max_windows is not None and max_windows < len(starts):
            starts = starts[np.linspace(0, len(starts) - 1, max_windows).astype(int)]
        self._batches = [
            (starts[first : first + batch_size], block_size)
            for first in range(0, len(starts), batch_size)
        ]
        rest = (len(tokens) - 1) % block_size
        if max_windows is None and rest:
            self._batches.append((np.array([len(tokens) - 1 - rest]), rest))

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, i: Any) -> Any:
        starts, length = self._batches[i]
        return windows(self.tokens, starts, length, self.separator)


def windows(
    tokens: TokenSource,
    starts: NDArray[np.int64],
    block_size: int,
    separator: int | None = None,
) -> Batch:
    """Return the windows that begin at `starts`, int64 (B, block_size), as a batch.

    separator: the id that a document begins with; without it the batch has no borders.
    """
    return _batch(_cut(tokens, starts, block_size), separator)


def check_length(tokens: TokenSource, block_size: int, part: str) -> None:
    """Raise UserError if not even one window fits into the tokens."""
    if len(tokens) <= block_size:
        raise UserError(
            f"the {part} has {len(tokens)} tokens, but one context of "
            f"block_size {block_size} needs {block_size + 1}: "
            f"give a longer text or a smaller --block-size"
        )


def _cut(tokens: TokenSource, starts: NDArray[np.int64], block_size: int) -> NDArray[np.int64]:
    return tokens[starts[:, None] + np.arange(block_size + 1)].astype(np.int64)


def _batch(ids: NDArray[np.int64], separator: int | None) -> Batch:
    """Inputs and targets, which are one token ahead, of (B, T + 1) ids."""
    # Copied by NumPy: PyTorch would start a second set of OpenMP threads in the loader's thread.
    x, y = np.ascontiguousarray(ids[:, :-1]), np.ascontiguousarray(ids[:, 1:])
    # A document begins with the separator that ends the one before it, as a sample does.
    starts = None if separator is None else torch.from_numpy(x == separator)
    return Batch(torch.from_numpy(x), torch.from_numpy(y), starts)
