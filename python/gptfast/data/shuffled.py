"""Batches of items that are drawn in a new random order in every epoch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gptfast.data.batch import Batch


class ShuffledSource:
    """Batches of n items: each item once per epoch, in an order that seed and epoch decide."""

    def __init__(
        self,
        n_items: int,
        batch_size: int,
        seed: int,
        make: Callable[[Sequence[int], int], Batch],
        longest: int,
        fingerprint: str,
        repeats: int = 1,
    ) -> None:
        """Start at the first epoch.

        make: returns the batch of some items, given their indices and the number of batches before,
        without repetitions.
        longest: the index of the longest item, of which `example` is made. fingerprint: a checksum
        of the data. repeats: how often each batch is drawn, one time after the other.
        """
        self.n_items, self.batch_size, self.seed = n_items, batch_size, seed
        self.make, self.longest, self.fingerprint = make, longest, fingerprint
        self.repeats = repeats
        self.drawn = 0
        self._epoch, self._order = -1, np.empty(0, np.int64)

    def next_batch(self) -> Batch:
        """Return the next batch, which may end one epoch and begin the next."""
        n_before = self.drawn // self.repeats
        first = n_before * self.batch_size
        self.drawn += 1
        return self.make([self._item(first + i) for i in range(self.batch_size)], n_before)

    def example(self) -> Batch:
        """Return a batch that holds the longest item in every row."""
        return self.make([self.longest] * self.batch_size, 0)

    def state_dict(self) -> dict[str, int]:
        """Return the number of batches drawn."""
        return {"drawn": self.drawn}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go to a saved position."""
        self.drawn = state["drawn"]

    def _item(self, i: int) -> int:
        """Return the index of the i-th item that is drawn, over all epochs."""
        epoch, place = divmod(i, self.n_items)
        if epoch != self._epoch:
            self._epoch = epoch
            self._order = np.random.default_rng((self.seed, epoch)).permutation(self.n_items)
        return int(self._order[place])


def fingerprint_of(*made_of: Any) -> str:
    """Return the SHA-256 of JSON values: of the data, and of what else decides what is learned."""
    return hashlib.sha256(json.dumps(made_of).encode()).hexdigest()
