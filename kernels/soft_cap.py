# mypy: ignore-errors
"""The soft cap of logits."""

import triton
import triton.language as tl


@triton.jit
def soft_cap(x, cap):
    """cap * tanh(x / cap) for float32 x. Its derivative is 1 - (result / cap)^2."""
    y = x / cap
    # tanh |y| = (1 - e^-2|y|) / (1 + e^-2|y|), of which little is left when |y| is small: there
    # the first terms of the series, which are exact to float32 up to 1/8.
    shrunk = tl.exp(-2 * tl.abs(y))
    magnitude = (1 - shrunk) / (1 + shrunk)
    square = y * y
    series = y * (1 - square * (1 / 3 - square * (2 / 15 - square * (17 / 315))))
    return cap * tl.where(tl.abs(y) < 0.125, series, tl.where(y < 0, -magnitude, magnitude))
