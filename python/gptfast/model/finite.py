"""Refuse a model whose weights are damaged."""

from __future__ import annotations

import torch
from torch import Tensor

from gptfast.errors import UserError
from gptfast.model.base import LanguageModel


@torch.no_grad()
def check_weights(model: LanguageModel) -> None:
    """Raise UserError if a weight is NaN or infinite, which PyTorch's attention may hide.

    A weight in a block is as finite as the block's scale.
    This reads every weight once, as the model does for every token.
    """
    weights: dict[str, Tensor] = dict(model.named_parameters())
    if model.quantized:
        from gptfast.model.quantized import Blocks

        weights |= {n: m.scales for n, m in model.named_modules() if isinstance(m, Blocks)}
    sums = torch.stack([p.sum(dtype=torch.float32) for p in weights.values()])
    if sums.isfinite().all():
        return
    for name, weight in weights.items():
        if not weight.isfinite().all():
            raise UserError(
                f"the model's weights are damaged: {name} holds NaN or infinity; take those of "
                f"another step or run"
            )
