"""Weights in blocks of 32 numbers with one scale: GGUF's Q8_0 and Q4_0, byte for byte.

A row of a matrix is cut into blocks. The scale d of a block is a float16 in the block's first two
bytes, little-endian. After it come

- in Q8_0, 32 bytes: int8 numbers q, each of which stands for d * q;
- in Q4_0, 16 bytes: byte i holds number i in its low four bits and number i + 16 in its high four.
  A number q, 0 to 15, stands for d * (q - 8).

Legend: N columns of a matrix, K = N / 32 blocks in a row.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from gptfast.errors import UserError

Kind = Literal["q8_0", "q4_0"]
"""How the numbers of a block are stored."""

BLOCK = 32
"""Numbers in a block."""
BLOCK_BYTES: dict[Kind, int] = {"q8_0": 34, "q4_0": 18}
"""Bytes of a block, its scale included."""


def check_kind(kind: str) -> None:
    """Raise UserError unless the kind is known."""
    if kind not in get_args(Kind):
        raise UserError(f"kind is {kind!r}; expected 'q8_0' or 'q4_0'")


def row_bytes(n_columns: int, kind: Kind) -> int:
    """Return the bytes of a row. Raise UserError unless it divides into blocks."""
    check_kind(kind)
    if n_columns < BLOCK or n_columns % BLOCK:
        raise UserError(f"a row has {n_columns} numbers; expected a multiple of {BLOCK}")
    return n_columns // BLOCK * BLOCK_BYTES[kind]


def quantize_blocks(weight: Tensor, kind: Kind) -> Tensor:
    """Return the blocks of a matrix, rounded as GGUF's reference rounds.

    weight: (..., N), any floating dtype, N a multiple of 32; computed in float32. The result is
    uint8 (..., K * bytes of a block), contiguous.

    Q8_0's scale is the largest absolute value / 127, and ties round away from zero. Q4_0's scale
    is the number with the largest absolute value / -8, so that this number is exact up to the
    scale's rounding; numbers are rounded to the nearest step, ties up.

    Raises UserError if N is no multiple of 32, or a scale is beyond float16's range, as it is for
    NaN and infinity.
    """
    row_bytes(weight.shape[-1], kind)
    x = weight.float().reshape(*weight.shape[:-1], weight.shape[-1] // BLOCK, BLOCK)
    if kind == "q8_0":
        d = x.abs().amax(-1, keepdim=True) / 127
        return blocks_of(d, _round_half_away(x * _inverse(d)), kind)
    largest = x.gather(-1, x.abs().argmax(-1, keepdim=True))
    d = largest / -8
    return blocks_of(d, (x * _inverse(d) + 8.5).to(torch.uint8).clamp(max=15), kind)


def blocks_of(d: Tensor, q: Tensor, kind: Kind) -> Tensor:
    """Return the blocks (..., K * bytes) of scales d (..., K, 1) and numbers q (..., K, 32).

    d: float32, which is rounded to float16. q: whole numbers in any dtype, -128 to 127 for Q8_0 and
    0 to 15 for Q4_0. Raises UserError if a scale is beyond float16's range.
    """
    half = d.half()
    if not half.isfinite().all():
        raise UserError(
            f"the weights can't be stored as {kind}: a block of them holds NaN, infinity, or "
            f"numbers beyond float16's range; take those of another step or run"
        )
    if kind == "q8_0":
        body = q.to(torch.int8).view(torch.uint8)
    else:
        low, high = q.to(torch.uint8).chunk(2, dim=-1)
        body = low | (high << 4)
    return torch.cat((half.view(torch.uint8), body), dim=-1).flatten(-2)


def dequantize_blocks(blocks: Tensor, kind: Kind) -> Tensor:
    """Return the float32 numbers (..., N) that the blocks (..., bytes of a row), uint8, stand for.

    The numbers are exact: a float16 times a small whole number is a float32. Raises UserError if a
    row does not divide into blocks.
    """
    check_kind(kind)
    size = BLOCK_BYTES[kind]
    if blocks.dtype != torch.uint8 or blocks.ndim == 0 or blocks.shape[-1] % size:
        raise UserError(
            f"the blocks are {blocks.dtype} of shape {tuple(blocks.shape)}; expected torch.uint8 "
            f"and a multiple of {size} bytes in a row of {kind}"
        )
    parts = blocks.reshape(*blocks.shape[:-1], blocks.shape[-1] // size, size)
    d = parts[..., :2].contiguous().view(torch.float16).float()
    body = parts[..., 2:]
    if kind == "q8_0":
        q = body.view(torch.int8).float()
    else:
        q = torch.cat((body & 15, body >> 4), dim=-1).float().sub_(8)
    numbers: Tensor = q.mul_(d).flatten(-2)
    return numbers


def _inverse(d: Tensor) -> Tensor:
    return torch.where(d == 0, 0, 1 / d)


def _round_half_away(x: Tensor) -> Tensor:
    """Round to whole numbers as C's roundf does; torch.round takes the even one of a tie."""
    size = x.abs()
    floor = size.floor()
    return x.sign() * (floor + (size - floor >= 0.5))
