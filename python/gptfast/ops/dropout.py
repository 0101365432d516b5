"""Dropout, with random numbers that are cheap on the CPU.

There PyTorch draws a number of 32 bits for each element, on most CPUs one after the other, which
takes longer than many a matrix product (measured on AMD's; on Intel's it has MKL draw them). 16
bits are enough to decide: four elements share a draw of 64.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from gptfast.errors import UserError

_LEVELS = 2**16


def dropout(x: Tensor, p: float) -> Tensor:
    """Zero each element of x with probability p, and divide the others by 1 - p.

    "Dropout: A Simple Way to Prevent Neural Networks from Overfitting", Srivastava et al. 2014, in
    PyTorch's scaling. On the CPU p is rounded to a multiple of 2^-16, at most 1 - 2^-16, unless
    torch.compile has made PyTorch's own of it.

    Args:
        x: any shape, any floating dtype.
        p: from 0 to less than 1; pass 0 outside training.

    Returns:
        A tensor shaped and typed like x.

    Raises:
        UserError: p is not as above.
    """
    if not 0 <= p < 1:
        raise UserError(f"dropout: p is {p}; expected 0 <= p < 1")
    if p == 0:
        return x
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        return F.dropout(x, p)
    return (x * draw_kept(x.shape, p)).mul_(kept_scale(p))


def draw_kept(
    shape: torch.Size, dropout_p: float, generator: torch.Generator | None = None
) -> Tensor:
    """Draw which elements are kept: True for a share of 1 - dropout_p, on the CPU."""
    n_draws = (shape.numel() + 3) // 4
    draws = torch.empty(n_draws, dtype=torch.int64, device="cpu")
    draws.random_(-(2**63), None, generator=generator)
    numbers = draws.view(torch.int16)[: shape.numel()]
    return (numbers >= _dropped_levels(dropout_p) - _LEVELS // 2).view(shape)


def kept_scale(dropout_p: float) -> float:
    """Return what makes up for those that `draw_kept` drops."""
    return _LEVELS / (_LEVELS - _dropped_levels(dropout_p))


def _dropped_levels(dropout_p: float) -> int:
    """How many of the 2^16 numbers mean that an element is dropped."""
    return min(round(dropout_p * _LEVELS), _LEVELS - 1)
