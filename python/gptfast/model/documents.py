"""Where a token is in its document, if a batch holds several that must not see each other."""

from __future__ import annotations

import torch
from torch import Tensor


def tokens_before(ids_BT: Tensor, cu_seqlens: Tensor | None) -> Tensor:
    """Return the number of preceding tokens in the same document and row: int64, (1 or B, T).

    cu_seqlens: document boundaries, as in `ops.attention`. Without them, a row is a document.
    """
    B, T = ids_BT.shape
    column_T = torch.arange(T, device=ids_BT.device)
    if cu_seqlens is None:
        return column_T[None]
    place_BT = torch.arange(B * T, device=ids_BT.device).view(B, T)
    begin_BT = cu_seqlens[torch.searchsorted(cu_seqlens, place_BT, right=True) - 1]
    return (place_BT - begin_BT).minimum(column_T)
