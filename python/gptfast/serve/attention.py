"""Where the heads of a model look: the attention weights of the last token of a text.

Legend: L layers, H heads, T tokens, D head width, G key and value heads.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gptfast.model import GPT
from gptfast.model.kv_cache import KVCache, NewTokens
from gptfast.ops.attention import attention_weights, weighted_sum


class _Recorder(NewTokens):
    """The tokens of a forward pass over an empty cache, which keeps the weights of the last one."""

    def __init__(self, cache: KVCache, ids_1T: Tensor) -> None:
        super().__init__(cache, [0], ids_1T)
        self.weights: list[Tensor] = []

    def attend(
        self, layer: int, q_BHTD: Tensor, k_BGTD: Tensor, v_BGTD: Tensor, window: int | None
    ) -> Tensor:
        """Return attention by its definition, (1, H, T, D)."""
        place_T = torch.arange(q_BHTD.size(2), device=q_BHTD.device)
        distance_TT = place_T[:, None] - place_T
        mask_TT = distance_TT < 0
        if window is not None:
            mask_TT |= distance_TT >= window
        weights_BHTT = attention_weights(q_BHTD, k_BGTD, mask_TT, None)
        self.weights.append(weights_BHTT[0, :, -1])
        return weighted_sum(weights_BHTT, v_BGTD)


@torch.inference_mode()
def attention_of_last(model: GPT, ids: Sequence[int]) -> Tensor:
    """Return the weights (L, H, T) with which the last of T ids looks at each of them."""
    ids_1T = torch.tensor([ids], device=next(model.parameters()).device)
    recorder = _Recorder(model.new_cache(1), ids_1T)
    model.hidden(ids_1T, recorder)
    return torch.stack(recorder.weights)
