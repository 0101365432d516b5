"""The key/value cache, which lets generation process each token only once.

Legend: B rows, G key and value heads, S capacity of a layer, D head width, T new tokens of a row,
H query heads, N tokens that a query sees.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gptfast import ops
from gptfast.model.config import ModelConfig

SLACK = 32
"""Tokens that a ring holds beyond its window, so that as many may be taken back."""


class KVCache:
    """Keys and values of every layer, and the token ids, for rows (texts) of unequal lengths.

    `k[layer]` and `v[layer]` are (B, G, S, D). S is block_size, or window + SLACK in a layer with a
    shorter sliding window, whose rows are rings: position p of a row lies at index p % S.
    """

    def __init__(
        self,
        config: ModelConfig,
        batch_size: int,
        n_layer: int,
        *,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.block_size = config.block_size
        self.k: list[Tensor] = []
        self.v: list[Tensor] = []
        for layer in range(n_layer):
            window = config.layer_window(layer) or config.block_size
            size = min(config.block_size, window + SLACK)
            shape = (batch_size, config.key_value_heads, size, config.head_width)
            self.k.append(torch.zeros(shape, device=device, dtype=dtype))
            self.v.append(torch.zeros(shape, device=device, dtype=dtype))
        self.ids_BT = torch.zeros(batch_size, config.block_size, device=device, dtype=torch.long)
        self.lengths = [0] * batch_size
        """Number of tokens in each row."""

    @property
    def n_kept(self) -> int:
        """Number of newest tokens with which a text goes on when its row is full.

        Every position changes then, so all keys and values are computed again. To do this rarely,
        the older half is forgotten. A model without keys and values keeps a whole context.
        """
        return max(1, self.block_size // 2) if self.k else self.block_size

    def reset(self, row: int) -> None:
        """Empty a row."""
        self.lengths[row] = 0

    def wipe(self, row: int) -> None:
        """Empty a row and overwrite it: attention must not meet a NaN, even where it is masked."""
        self.lengths[row] = 0
        for cached_BGSD in (*self.k, *self.v):
            cached_BGSD[row] = 0

    def truncate(self, row: int, length: int) -> None:
        """Forget all but the first `length` tokens of a row, at most SLACK tokens at a time."""
        assert self.lengths[row] - SLACK <= length <= self.lengths[row]
        self.lengths[row] = length

    def save(self, row: int) -> SavedRow:
        """Return a copy of a row's contents."""
        length = self.lengths[row]
        layers = [cached_BGSD[row, :, :length].clone() for cached_BGSD in (*self.k, *self.v)]
        return SavedRow(length, self.ids_BT[row, :length].clone(), layers)

    def load(self, row: int, saved: SavedRow) -> None:
        """Replace the contents of a row."""
        self.lengths[row] = saved.length
        self.ids_BT[row, : saved.length] = saved.ids_T
        for cached_BGSD, saved_GSD in zip((*self.k, *self.v), saved.layers, strict=True):
            cached_BGSD[row, :, : saved_GSD.size(1)] = saved_GSD


@dataclass(frozen=True)
class SavedRow:
    """What a row of a cache held."""

    length: int
    ids_T: Tensor
    layers: list[Tensor]
    """Keys of all layers, then values, (G, T, D) each, or (G, S, D) where a ring was full."""


class NewTokens:
    """The tokens of one forward pass over a cache: T of one row, or one of each of B rows.

    Making it stores the ids. Each layer then stores its keys and values by `attend`, and `finish`
    adds the tokens to the rows' lengths.
    """

    def __init__(self, cache: KVCache, rows: Sequence[int], ids_BT: Tensor) -> None:
        assert len(rows) == 1 or ids_BT.size(1) == 1
        self._cache, self._rows, self._n_new = cache, list(rows), ids_BT.size(1)
        self._starts = [cache.lengths[row] for row in rows]
        row_B, self._start_B = torch.tensor([self._rows, self._starts], device=ids_BT.device)
        self._row_B1 = row_B[:, None]
        self.position_BT = self._start_B[:, None] + torch.arange(self._n_new, device=row_B.device)
        cache.ids_BT[self._row_B1, self.position_BT] = ids_BT
        # Layers with the same capacity, or the same window, share these.
        self._places: dict[int, tuple[Tensor, slice, Tensor]] = {}
        self._views: dict[int | None, _View] = {}

    def finish(self) -> None:
        """Add the tokens to the lengths of the rows."""
        for row in self._rows:
            self._cache.lengths[row] += self._n_new

    def ids_before(self, n: int) -> Tensor:
        """Return the n ids before the new tokens, (B, n); any ids for places before the text."""
        index_Bn = self.position_BT[:, :1] + torch.arange(-n, 0, device=self.position_BT.device)
        return self._cache.ids_BT[self._row_B1, index_Bn.clamp(min=0)]

    def texts(self) -> list[Tensor]:
        """Return the ids of each row, the new ones included, (1, T) each."""
        ids_BT, n_new = self._cache.ids_BT, self._n_new
        pairs = zip(self._rows, self._starts, strict=True)
        return [ids_BT[row : row + 1, : start + n_new] for row, start in pairs]

    def attend(
        self, layer: int, q_BHTD: Tensor, k_BGTD: Tensor, v_BGTD: Tensor, window: int | None
    ) -> Tensor:
        """Store the new keys and values; return attention over them and the past, (B, H, T, D)."""
        k_BGSD, v_BGSD = self._cache.k[layer], self._cache.v[layer]
        if self._n_new == 1:
            self._store(k_BGSD, k_BGTD)
            self._store(v_BGSD, v_BGTD)
            if window not in self._views:
                self._views[window] = self._view(window, k_BGSD.size(2))
            view = self._views[window]
            return ops.decode_attention(q_BHTD, view.of(k_BGSD), view.of(v_BGSD), view.lengths_B)
        # A ring is read before it is written: the new tokens may overwrite what they see.
        k_1GSD = self._with_past(k_BGSD, k_BGTD, window)
        v_1GSD = self._with_past(v_BGSD, v_BGTD, window)
        self._store(k_BGSD, k_BGTD)
        self._store(v_BGSD, v_BGTD)
        return ops.attention(q_BHTD, k_1GSD, v_1GSD, causal=True, window=window)

    def _store(self, cached_BGSD: Tensor, new_BGTD: Tensor) -> None:
        S = cached_BGSD.size(2)
        if S not in self._places:  # of more tokens than a ring holds, the newest
            self._places[S] = (self._row_B1, slice(None), self.position_BT[:, -S:] % S)
        # Under autocast the new ones have another type.
        new_BTGD = new_BGTD[:, :, -S:].transpose(1, 2).to(cached_BGSD.dtype)
        cached_BGSD[self._places[S]] = new_BTGD

    def _with_past(self, cached_BGSD: Tensor, new_1GTD: Tensor, window: int | None) -> Tensor:
        """Return the new keys or values of a row after those of the past that they see."""
        start = self._starts[0]
        first = 0 if window is None else max(0, start - window + 1)
        if first == start:
            return new_1GTD
        index = torch.arange(first, start, device=new_1GTD.device) % cached_BGSD.size(2)
        return torch.cat((cached_BGSD[self._rows[0]][None, :, index], new_1GTD), dim=2)

    def _view(self, window: int | None, size: int) -> _View:
        """Return where a layer of capacity `size` holds what one new token of each row sees."""
        lengths = [start + 1 for start in self._starts]
        longest, B = max(lengths), len(lengths)
        n_seen = longest if window is None else min(longest, window)
        is_even = all(length >= n_seen for length in lengths)
        lengths_B = None if is_even else (self._start_B + 1).clamp(max=n_seen)
        if n_seen < longest:  # the window's end is not at the same index in each row
            first_B1 = (self._start_B[:, None] + 1 - n_seen).clamp(min=0)
            index_BN = (first_B1 + torch.arange(n_seen, device=first_B1.device)) % size
            return _View((self._row_B1, slice(None), index_BN), True, lengths_B)
        begin = self._rows[0]
        adjacent = self._rows == list(range(begin, begin + B))  # then nothing is copied
        rows = slice(begin, begin + B) if adjacent else self._row_B1[:, 0]
        return _View((rows, slice(None), slice(n_seen)), False, lengths_B)


@dataclass(frozen=True)
class _View:
    """Where the keys and values lie that one new token of each row sees."""

    index: tuple[slice | Tensor, ...]
    is_gathered: bool
    lengths_B: Tensor | None
    """Number of keys of each row, or None if all have N."""

    def of(self, cached_BGSD: Tensor) -> Tensor:
        """Return the keys or values, (B, G, N, D)."""
        seen = cached_BGSD[self.index]
        return seen.transpose(1, 2) if self.is_gathered else seen
