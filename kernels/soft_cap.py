# mypy: ignore-errors
"""The soft cap of logits, in Triton."""

import triton
import triton.language as tl


@triton.jit
def soft_cap(x, cap):
    """Return cap * tanh(x / cap) for float32 x. The derivative is 1 - (result / cap)^2."""
    y = x / cap
    # tanh |y| = (1 - e^-2|y|) / (1 + e^-2|y|). For small |y| the numerator cancels, so the first
    # terms of the series replace it up to 1/8, where they are exact in float32.
    shrunk = tl.exp(-2 * tl.abs(y))
    magnitude = (1 - shrunk) / (1 + shrunk)
    square = y * y
    series = y * (1 - square * (1 / 3 - square * (2 / 15 - square * (17 / 315))))
    return cap * tl.where(tl.abs(y) < 0.125, series, tl.where(y < 0, -magnitude, magnitude))
