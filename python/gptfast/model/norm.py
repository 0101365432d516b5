"""Layer norm and RMS norm as modules, computed by gptfast.ops."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gptfast import ops
from gptfast.model.config import ModelConfig


class LayerNorm(nn.Module):
    """Computes (x - mean) / sqrt(variance + eps) * weight + bias over the last axis.

    "Layer Normalization" (Ba et al., 2016).
    """

    def __init__(self, width: int, eps: float, bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width)) if bias else None
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Return x (..., C) normalised over its last axis."""
        return ops.layer_norm(x, self.weight, self.bias, self.eps)


class RMSNorm(nn.Module):
    """Computes x / sqrt(mean of x^2 + eps) * weight over the last axis.

    "Root Mean Square Layer Normalization" (Zhang and Sennrich, 2019).
    """

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Return x (..., C) normalised over its last axis."""
        return ops.rms_norm(x, self.weight, self.eps)


def build_norm(config: ModelConfig) -> LayerNorm | RMSNorm:
    """Return the configured norm of the residual stream."""
    if config.norm == "rmsnorm":
        return RMSNorm(config.n_embd, config.norm_eps)
    return LayerNorm(config.n_embd, config.norm_eps, config.bias)
