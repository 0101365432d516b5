"""Batches of token windows; the position is state, so that a run can go on where it stopped."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeAlias, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gptfast.data.dataset import TokenSource
from gptfast.errors import UserError

IGNORED = -100
"""A target that doesn't count in the loss: PyTorch's default."""

Batch: TypeAlias = tuple[Tensor, Tensor]
"""Inputs and targets, both int64 (B, T); targets are one token ahead."""


class SourceState(TypedDict):
    """Where a Loader stands in one of its sources."""

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
    ) -> None:
        """weights: each source's share, in any unit; None for equal ones.

        Raises UserError for a source too short, ValueError for another number of weights.
        """
        shares = np.ones(len(sources)) if weights is None else np.array(weights)
        if len(shares) != len(sources):
            raise ValueError(f"{len(shares)} weights for {len(sources)} sources")
        self.sources = [_Shuffled(s, block_size, (seed, i)) for i, s in enumerate(sources)]
        self.weights = shares / shares.sum()
        self.block_size = block_size
        self.batch_size = batch_size

    def next_batch(self) -> Batch:
        """Inputs and targets, int64 (batch_size, block_size)."""
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
        return _inputs_and_targets(ids)

    def state_dict(self) -> list[SourceState]:
        """The position, to be saved with a checkpoint."""
        return [source.state_dict() for source in self.sources]

    def load_state_dict(self, state: Sequence[SourceState]) -> None:
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
        """The next n windows and the token after each: (n, block_size + 1)."""
        starts: list[int] = []
        while len(starts) < n:
            if self.position >= len(self.starts):
                self._start_epoch(self.epoch + 1)
            new = self.starts[self.position : self.position + n - len(starts)]
            starts.extend(new)
            self.position += len(new)
        self.taken += n
        return _cut(self.tokens, np.array(starts), self.block_size)

    def state_dict(self) -> SourceState:
        return {"epoch": self.epoch, "position": self.position, "taken": self.taken}

    def load_state_dict(self, state: SourceState) -> None:
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


class Prefetcher:
    """A Loader whose next batch is made by a thread while the last one is trained on.

    Its position is that of the batches handed out; one that is still waiting doesn't count.
    """

    def __init__(self, loader: Loader) -> None:
        self._loader = loader
        self._state = loader.state_dict()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="loader")
        self._next = self._thread.submit(self._make)

    def next_batch(self) -> Batch:
        """As the loader's."""
        batch, self._state = self._next.result()
        self._next = self._thread.submit(self._make)
        return batch

    def state_dict(self) -> list[SourceState]:
        """As the loader's."""
        return self._state

    def load_state_dict(self, state: Sequence[SourceState]) -> None:
        """As the loader's; the batch that is waiting is forgotten."""
        self._next.exception()  # wait: the loader must not be in use
        self._loader.load_state_dict(state)
        self._state = self._loader.state_dict()
        self._next = self._thread.submit(self._make)

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown()

    def _make(self) -> tuple[Batch, list[SourceState]]:
        batch = self._loader.next_batch()
        return batch, self._loader.state_dict()


def windows(tokens: TokenSource, starts: NDArray[np.int64], block_size: int) -> Batch:
    """The windows that begin at `starts`, and the same one token later; int64 (B, block_size)."""
    return _inputs_and_targets(_cut(tokens, starts, block_size))


def document_borders(ids_BT: Tensor, separator: int) -> Tensor:
    """Where the documents of a batch begin, and its end: int64 (N + 1,), as `ops.attention` wants.

    The rows lie one behind the other. A document begins with the separator that ends the one
    before it, as a sample begins with one; what a row begins with is a document of its own.
    """
    begins_BT = ids_BT == separator
    begins_BT[:, 0] = True
    borders = begins_BT.flatten().nonzero().flatten()
    return torch.cat([borders, borders.new_tensor([ids_BT.numel()])])


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


def _inputs_and_targets(ids: NDArray[np.int64]) -> Batch:
    # Copied by NumPy: PyTorch would start a second set of OpenMP threads in the loader's thread.
    x, y = np.ascontiguousarray(ids[:, :-1]), np.ascontiguousarray(ids[:, 1:])
    return torch.from_numpy(x), torch.from_numpy(y)
