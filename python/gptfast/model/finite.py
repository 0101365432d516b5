"""Refuse a model whose weights are damaged."""

from __future__ import annotations

import torch

from gptfast.errors import UserError
from gptfast.model.base import LanguageModel


@torch.no_grad()
def check_weights(model: LanguageModel) -> None:
    """Raise UserError if a weight is NaN or infinite, which PyTorch's attention may hide.

    This reads every weight once, as the model does for every token.
    """
    sums = torch.stack([p.sum(dtype=torch.float32) for p in model.parameters()])
    if sums.isfinite().all():
        return
    for name, parameter in model.named_parameters():
        if not parameter.isfinite().all():
            raise UserError(
                f"the model's weights are damaged: {name} holds NaN or infinity; take those of "
                f"another step or run"
            )
