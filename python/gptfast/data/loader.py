"""Batches of token windows. A saved position lets a run continue where it stopped."""

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
    """The position of a Loader in one of its corpora."""

    epoch: int
    position: int
    """Number of windows taken in this epoch."""
    taken: int
    """Number of windows taken in all epochs."""


class Loader:
    """Shuffled windows of the train tokens of one or more sources.

    In each epoch, a source is cut into windows of block_size tokens that don't overlap. The first
    window begins at a random offset, so the cuts differ between epochs. The windows are visited
    once each, in random order. Offset and order depend only on (seed, epoch, index of the source).
    Each window comes from the source that is furthest behind its share of all windows so far.
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
        """Start each source at its first window.

        weights: the share of each source, in any unit; None means equal shares. separator: the id
        that documents begin with, if documents must not see each other.

        Raises UserError if a source is too short, ValueError for a wrong number of weights.
        """
        shares = np.ones(len(sources)) if weights is None else np.array(weights)
        if len(shares) != len(sources):
            raise ValueError(f"{len(shares)} weights for {len(sources)} sources")
        self.sources = [_Shuffled(s, block_size, (seed, i)) for i, s in enumerate(sources)]
        self.weights = shares / shares.sum()
        self.block_size = block_size
        self.batch_size = batch_size
        self.separator = separator

    def __repr__(self) -> str:
        return (
            f"Loader({len(self.sources)} corpora, batches of {self.batch_size} x "
            f"{self.block_size} ids)"
        )

    def example(self) -> Batch:
        """Return a batch like those of `next_batch`, without moving the position."""
        starts = np.zeros(self.batch_size, dtype=np.int64)
        return windows(self.sources[0].tokens, starts, self.block_size, self.separator)

    def next_batch(self) -> Batch:
        """Return the next windows: ids and targets, int64 (batch_size, block_size)."""
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
        """Return the position, to be saved with a checkpoint."""
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
        # The last window needs one more token, its last target.
        offset = int(rng.integers(min(self.block_size, len(self.tokens) - self.block_size)))
        self.starts = rng.permutation(
            np.arange(offset, len(self.tokens) - self.block_size, self.block_size)
        )
        self.epoch = epoch
        self.position = 0


class BatchSource(Protocol):
    """A source of batches whose position can be saved and restored."""

    def next_batch(self) -> Batch:
        """Return the next batch and move on."""

    def state_dict(self) -> Any:
        """Return the position, as JSON types."""

    def load_state_dict(self, state: Any) -> None:
        """Go to a saved position."""


class Prefetcher:
    """A source that prepares its next batch in a thread, while the current one is trained on.

    Its position counts only the batches that were returned, not the prepared one.
    """

    def __init__(self, source: BatchSource) -> None:
        self._source = source
        self._state = source.state_dict()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="loader")
        self._next = self._thread.submit(self._make)

    def next_batch(self) -> Batch:
        """Return the prepared batch, and start to prepare the next."""
        batch, self._state = self._next.result()
        self._next = self._thread.submit(self._make)
        return batch

    def state_dict(self) -> Any:
        """Return the position of the source after the last returned batch."""
        return self._state

    def load_state_dict(self, state: Any) -> None:
        """Move the source to a saved position, and discard the prepared batch."""
        self._next.exception()  # wait until the thread no longer uses the source
        self._source.load_state_dict(state)
        self._state = self._source.state_dict()
        self._next = self._thread.submit(self._make)

    def close(self) -> None:
        """Stop the thread."""
        self._thread.shutdown()

    def _make(self) -> tuple[Batch, Any]:
        batch = self._source.next_batch()
        return batch, self._source.state_dict()


class EvalWindows(Sequence[Batch]):
    """A fixed set of val windows that don't overlap, in batches.

    Without max_windows, they cover the whole split: every token but the first is predicted exactly
    once. The last window may be shorter than the others.
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

        max_windows: maximum number of windows, spread evenly. separator: as in `Loader`. Raises
        UserError if the tokens are shorter than one window.
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

    def __repr__(self) -> str:
        n_windows = sum(len(starts) for starts, _ in self._batches)
        return f"EvalWindows({n_windows:,} windows in {len(self)} batches)"

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
    """Return the windows that begin at `starts` as a batch of int64 (B, block_size).

    separator: the id that documents begin with. Without it, the batch has no document boundaries.
    """
    return _batch(_cut(tokens, starts, block_size), separator)


def check_length(tokens: TokenSource, block_size: int, part: str, advice: str = "") -> None:
    """Raise UserError, which ends with `advice`, if the tokens are shorter than one window."""
    if len(tokens) <= block_size:
        raise UserError(
            f"the {part} has {len(tokens)} tokens, but one context of "
            f"block_size {block_size} needs {block_size + 1}: "
            f"give a longer text or a smaller --block-size{advice}"
        )


def _cut(tokens: TokenSource, starts: NDArray[np.int64], block_size: int) -> NDArray[np.int64]:
    return tokens[starts[:, None] + np.arange(block_size + 1)].astype(np.int64)


def _batch(ids: NDArray[np.int64], separator: int | None) -> Batch:
    """Return inputs and targets, shifted by one token, from (B, T + 1) ids."""
    # NumPy copies, because PyTorch would start a second set of OpenMP threads in this thread.
    x, y = np.ascontiguousarray(ids[:, :-1]), np.ascontiguousarray(ids[:, 1:])
    # A document begins with the separator that ends the previous one, as in sampling.
    starts = None if separator is None else torch.from_numpy(x == separator)
    return Batch(torch.from_numpy(x), torch.from_numpy(y), starts)
