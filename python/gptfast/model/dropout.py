"""Dropout as a module, computed by gptfast.ops, and how to turn it off for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from gptfast import ops


class Dropout(nn.Module):
    """Zeroes each element with probability p in training, and scales up the others."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """Return x; in training, some of its elements are zero."""
        return ops.dropout(x, self.p if self.training else 0.0)

    def extra_repr(self) -> str:
        """Return the arguments that the module's repr shows."""
        return f"p={self.p}"


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Turn off dropout within the block, and restore the model's mode after it."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
