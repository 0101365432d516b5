"""Dropout as a module, computed by gptfast.ops."""

from __future__ import annotations

from torch import Tensor, nn

from gptfast import ops


class Dropout(nn.Module):
    """In training, zero each element with probability p and scale up the others."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """The shape of x stays."""
        return ops.dropout(x, self.p if self.training else 0.0)

    def extra_repr(self) -> str:
        """What print(model) shows of it."""
        return f"p={self.p}"
