"""Dropout, with cheap random numbers on the CPU.

On the CPU, PyTorch draws 32 random bits for each element, one element after another on most CPUs.
This takes longer than many matrix products (measured on AMD; on Intel, PyTorch uses MKL). 16 bits
per element are enough, so four elements share a 64-bit draw.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from gptfast.errors import UserError
from gptfast.ops.checks import check_tensors, checked_float
from gptfast.ops.operator import is_traced, is_transformed

_LEVELS = 2**16


def dropout(x: Tensor, p: float) -> Tensor:
    """Zero each element of x with probability p, and divide the others by 1 - p.

    "Dropout: A Simple Way to Prevent Neural Networks from Overfitting", Srivastava et al. 2014,
    with PyTorch's scaling. On the CPU, p is rounded to a multiple of 2^-16, at most 1 - 2^-16.
    Under torch.compile, torch.jit.trace and the transforms of torch.func, PyTorch's own dropout
    runs instead.

    Args:
        x: any shape, any floating dtype.
        p: probability, 0 <= p < 1. Pass 0 outside training.

    Returns:
        A tensor shaped and typed like x.

    Raises:
        UserError: x has another dtype, or p is no number or out of range.
    """
    check_tensors("dropout", x=x)
    if not x.is_floating_point():
        raise UserError(f"dropout: x is {x.dtype}; expected a floating dtype")
    p = checked_float("dropout", "p", p)
    if not 0 <= p < 1:
        raise UserError(f"dropout: p is {p}; expected 0 <= p < 1")
    if p == 0:
        return x
    if x.device.type != "cpu" or torch.compiler.is_compiling() or is_traced() or is_transformed():
        return F.dropout(x, p)
    return (x * draw_kept(x.shape, p)).mul_(kept_scale(p))


def draw_kept(
    shape: torch.Size, dropout_p: float, generator: torch.Generator | None = None
) -> Tensor:
    """Draw a mask on the CPU that is True with probability 1 - dropout_p, where elements stay."""
    n_draws = (shape.numel() + 3) // 4
    draws = torch.empty(n_draws, dtype=torch.int64, device="cpu")
    draws.random_(-(2**63), None, generator=generator)
    numbers = draws.view(torch.int16)[: shape.numel()]
    return (numbers >= _dropped_levels(dropout_p) - _LEVELS // 2).view(shape)


def kept_scale(dropout_p: float) -> float:
    """Return the factor that compensates for the elements that `draw_kept` drops."""
    return _LEVELS / (_LEVELS - _dropped_levels(dropout_p))


def _dropped_levels(dropout_p: float) -> int:
    """Return how many of the 2^16 random values drop an element."""
    return min(round(dropout_p * _LEVELS), _LEVELS - 1)
