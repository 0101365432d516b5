"""What one training step reads: token ids, their targets, and where documents begin.

Legend: B batch, T time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

IGNORED = -100
"""A target that does not count in the loss: PyTorch's default."""


@dataclass(frozen=True, repr=False)
class Batch:
    """Tensors with one leading dimension B, cut alike for processes and micro-batches."""

    ids_BT: Tensor
    """Input ids, int64 (B, T); (B, 2, T) for pairs of answers (data/pairs.py)."""
    targets_BT: Tensor
    """The id that each position should predict, int64, shaped as the ids; IGNORED does not
    count."""
    document_starts_BT: Tensor | None = None
    """True where a document begins, bool (B, T), always on the CPU. None: no borders."""
    extras: dict[str, Tensor] = field(default_factory=dict)
    """What an objective needs beside them, such as advantages; each (B, ...)."""

    def __len__(self) -> int:
        """Return B, the number of rows."""
        return len(self.ids_BT)

    def __repr__(self) -> str:
        shape = " x ".join(map(str, self.ids_BT.shape))
        extras = "".join(f", {name}" for name in self.extras)
        return f"Batch({shape} ids on {self.ids_BT.device}{extras})"

    @property
    def cu_seqlens(self) -> Tensor | None:
        """Return the start of each document and the end, over the concatenated rows, or None.

        int64 (N + 1,), as `ops.attention` takes them. Each row begins a document.
        """
        if self.document_starts_BT is None:
            return None
        # Counted on the CPU: the result's size depends on values, which would synchronize a GPU.
        starts_BT = self.document_starts_BT.clone()
        starts_BT[:, 0] = True
        begins = starts_BT.flatten().nonzero().flatten()
        ends = begins.new_tensor([starts_BT.numel()])
        return torch.cat([begins, ends]).to(self.ids_BT.device)

    def to(self, device: torch.device) -> Batch:
        """Return the batch on `device`; document borders stay on the CPU."""
        moved = self._each(lambda tensor: tensor.to(device))
        return replace(moved, document_starts_BT=self.document_starts_BT)

    def share(self, rank: int, size: int) -> Batch:
        """Return the rows of process `rank` of `size`: every size-th, from `rank` on."""
        return self._each(lambda tensor: tensor[rank::size])

    def split(self, n_rows: int) -> list[Batch]:
        """Cut into micro-batches of at most `n_rows` rows."""
        starts = range(0, len(self), n_rows)
        return [self._each(lambda t, i=i: t[i : i + n_rows]) for i in starts]  # type: ignore[misc]

    def _each(self, cut: Callable[[Tensor], Tensor]) -> Batch:
        starts = self.document_starts_BT
        return Batch(
            cut(self.ids_BT),
            cut(self.targets_BT),
            None if starts is None else cut(starts),
            {name: cut(tensor) for name, tensor in self.extras.items()},
        )
