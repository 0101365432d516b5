"""Batches of token windows; the position is state, so that a run can go on where it stopped."""

from __future__ import annotations

from typing import TypedDict

import numpy as np
import torch
from torch import Tensor

from gptfast.data.dataset import TokenSource
from gptfast.errors import UserError

IGNORED = -100
"""A target that doesn't count in the loss: PyTorch's default."""


class LoaderState(TypedDict):
    """Where a Loader stands."""

    epoch: int
    position: int


class Loader:
    """Shuffled windows of the train tokens, each once per epoch.

    An epoch cuts the tokens into windows of block_size tokens that don't overlap, beginning at a
    random offset so that the cuts differ from epoch to epoch, and visits them in random order. Both
    depend on (seed, epoch) alone.
    """

    def __init__(self, tokens: TokenSource, block_size: int, batch_size: int, seed: int) -> None:
        check_length(tokens, block_size, "train")
        self.tokens = tokens
        self.block_size = block_size
        self.batch_size = batch_size
        self.seed = seed
        self._start_epoch(0)

    def next_batch(self) -> tuple[Tensor, Tensor]:
        """Inputs and targets, both int64 (batch_size, block_size); targets are one token ahead."""
        starts: list[int] = []
        while len(starts) < self.batch_size:
            if self.position >= len(self.starts):
                self._start_epoch(self.epoch + 1)
            taken = self.starts[self.position : self.position + self.batch_size - len(starts)]
            starts.extend(taken)
            self.position += len(taken)
        return windows(self.tokens, np.array(starts), self.block_size)

    def state_dict(self) -> LoaderState:
        """The position, to be saved with a checkpoint."""
        return {"epoch": self.epoch, "position": self.position}

    def load_state_dict(self, state: LoaderState) -> None:
        """Go to a saved position."""
        self._start_epoch(state["epoch"])
        self.position = state["position"]

    def _start_epoch(self, epoch: int) -> None:
        rng = np.random.default_rng((self.seed, epoch))
        # The last window needs one token more: its last target.
        offset = int(rng.integers(min(self.block_size, len(self.tokens) - self.block_size)))
        self.starts = rng.permutation(
            np.arange(offset, len(self.tokens) - self.block_size, self.block_size)
        )
        self.epoch = epoch
        self.position = 0


def windows(tokens: TokenSource, starts: np.ndarray, block_size: int) -> tuple[Tensor, Tensor]:
    """The windows that begin at `starts`, and the same one token later; int64 (B, block_size)."""
    batch = torch.from_numpy(tokens[starts[:, None] + np.arange(block_size + 1)].astype(np.int64))
    return batch[:, :-1].contiguous(), batch[:, 1:].contiguous()


def check_length(tokens: TokenSource, block_size: int, part: str) -> None:
    """Raise UserError if not even one window fits into the tokens."""
    if len(tokens) <= block_size:
        raise UserError(
            f"the {part} part of the corpus has {len(tokens)} tokens, but one context of "
            f"block_size {block_size} needs {block_size + 1}: "
            f"give a longer text or a smaller --block-size"
        )
