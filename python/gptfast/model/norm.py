"""Layer normalisation as a module, computed by gptfast.ops."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gptfast import ops


class LayerNorm(nn.Module):
    """(x - mean) / sqrt(variance + eps) * weight + bias over the last axis (Ba et al., 2016)."""

    def __init__(self, n_embd: int, kernels: str = "auto", eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(n_embd))
        self.bias = nn.Parameter(torch.zeros(n_embd))
        self.eps = eps
        self.kernels = kernels

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x (..., C); the shape stays."""
        return ops.layer_norm(x, self.weight, self.bias, self.eps, backend=self.kernels)
