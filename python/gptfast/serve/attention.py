"""Where the heads of a model look: the attention weights of the last token of a text.

Legend: L layers, H heads, T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gptfast import ops
from gptfast.model import GPT


@torch.inference_mode()
def attention_of_last(model: GPT, ids: Sequence[int]) -> Tensor:
    """Return the weights (L, H, T) with which the last of T ids looks at each of them."""
    ids_1T = torch.tensor([ids], device=next(model.parameters()).device)
    with ops.return_weights(lambda weights_1HTT: weights_1HTT[0, :, -1].clone()) as weights:
        model.hidden(ids_1T)
    return torch.stack(weights)
