"""The key/value cache, which lets generation process each token only once."""

from __future__ import annotations

import torch
from torch import Tensor


class KVCache:
    """Keys and values of every layer, and the token ids, in buffers as long as the context.

    Legend: L layers, B batch, G key and value heads, T time, D head width.
    """

    def __init__(
        self,
        n_layer: int,
        batch_size: int,
        n_kv_head: int,
        block_size: int,
        head_width: int,
        *,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        shape = (n_layer, batch_size, n_kv_head, block_size, head_width)
        self.k_LBGTD = torch.zeros(shape, device=device, dtype=dtype)
        self.v_LBGTD = torch.zeros(shape, device=device, dtype=dtype)
        self.ids_BT = torch.zeros(batch_size, block_size, device=device, dtype=torch.long)
        self.length = 0
        """Number of tokens in every layer. `advance` raises it after all layers have appended."""

    def append(self, layer: int, k_BGTD: Tensor, v_BGTD: Tensor) -> tuple[Tensor, Tensor]:
        """Store the new tokens' keys and values; return all of the layer's keys and values."""
        end = self.length + k_BGTD.size(2)
        self.k_LBGTD[layer, :, :, self.length : end] = k_BGTD
        self.v_LBGTD[layer, :, :, self.length : end] = v_BGTD
        return self.k_LBGTD[layer, :, :, :end], self.v_LBGTD[layer, :, :, :end]

    def append_ids(self, ids_BT: Tensor) -> Tensor:
        """Store the new tokens' ids; return all ids, which n-gram embeddings need."""
        end = self.length + ids_BT.size(1)
        self.ids_BT[:, self.length : end] = ids_BT
        return self.ids_BT[:, :end]

    def advance(self, n_tokens: int) -> None:
        """Add `n_tokens` to the length, after every layer has appended them."""
        self.length += n_tokens
