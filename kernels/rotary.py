# mypy: ignore-errors
"""Rotary embedding in Triton: one launch rotates queries and keys and reads each element once.

"RoFormer: Enhanced Transformer with Rotary Position Embedding", Su et al. 2021,
https://arxiv.org/abs/2104.09864. README.md in this folder explains why the same kernel computes the
backward pass. The tests compare the kernel with `rotary_reference` in ops/rotary.py.

Shape suffixes: B batch, T time, H query heads, G key heads, D head width, P channel pairs. Inside
a kernel, `_P` is one row and `_HP` one tile, padded to BLOCK_H and BLOCK_P, powers of two.
"""

import torch
import triton
import triton.language as tl


@triton.jit
def _row(table, strides, b, t, P: tl.constexpr, BLOCK_P: tl.constexpr):
    """Load the cosines or the sines of one token."""
    pairs = tl.arange(0, BLOCK_P)
    token = table + b.to(tl.int64) * strides[0] + t.to(tl.int64) * strides[1]
    return tl.load(token + pairs.to(tl.int64) * strides[2], mask=pairs < P, other=0.0)


@triton.jit
def _tile(x, strides, b, t, heads, channels):
    """Return the addresses of a tile of one token, in 64 bits: x may exceed 2^31 elements."""
    token = x + b.to(tl.int64) * strides[0] + t.to(tl.int64) * strides[2]
    head_offsets = heads.to(tl.int64)[:, None] * strides[1]
    return token + head_offsets + channels.to(tl.int64)[None, :] * strides[3]


@triton.jit
def _rotate_token(
    x, x_strides, out, out_strides, b, t, cos_P, sin_P, H,
    P: tl.constexpr, REST: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_P: tl.constexpr,
    BLOCK_REST: tl.constexpr,
):  # fmt: skip
    """Rotate all heads of one token."""
    pairs = tl.arange(0, BLOCK_P)
    for first_head in range(0, H, BLOCK_H):
        heads = first_head + tl.arange(0, BLOCK_H)
        inside = (heads < H)[:, None] & (pairs < P)[None, :]
        x1_HP = tl.load(_tile(x, x_strides, b, t, heads, pairs), mask=inside).to(tl.float32)
        x2_HP = tl.load(_tile(x, x_strides, b, t, heads, pairs + P), mask=inside).to(tl.float32)
        out1_HP = x1_HP * cos_P[None, :] - x2_HP * sin_P[None, :]
        out2_HP = x2_HP * cos_P[None, :] + x1_HP * sin_P[None, :]
        out_type = out.dtype.element_ty
        tl.store(_tile(out, out_strides, b, t, heads, pairs), out1_HP.to(out_type), mask=inside)
        tl.store(_tile(out, out_strides, b, t, heads, pairs + P), out2_HP.to(out_type), mask=inside)
        if REST > 0:
            rest = tl.arange(0, BLOCK_REST)
            inside = (heads < H)[:, None] & (rest < REST)[None, :]
            passed = tl.load(_tile(x, x_strides, b, t, heads, rest + 2 * P), mask=inside)
            tl.store(_tile(out, out_strides, b, t, heads, rest + 2 * P), passed, mask=inside)


@triton.jit
def _rotary_kernel(
    q, q_strides, k, k_strides, q_out, q_out_strides, k_out, k_out_strides,
    cos, cos_strides, sin, sin_strides, T, H, G,
    INVERSE: tl.constexpr, P: tl.constexpr, REST: tl.constexpr, BLOCK_H: tl.constexpr,
    BLOCK_G: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_REST: tl.constexpr,
):  # fmt: skip
    """Process one token: load its angles once and rotate all its heads."""
    b, t = tl.program_id(0) // T, tl.program_id(0) % T
    cos_P = _row(cos, cos_strides, b, t, P, BLOCK_P)
    sin_P = _row(sin, sin_strides, b, t, P, BLOCK_P)
    if INVERSE:
        sin_P = -sin_P
    _rotate_token(
        q, q_strides, q_out, q_out_strides, b, t, cos_P, sin_P, H,
        P, REST, BLOCK_H, BLOCK_P, BLOCK_REST,
    )  # fmt: skip
    _rotate_token(
        k, k_strides, k_out, k_out_strides, b, t, cos_P, sin_P, G,
        P, REST, BLOCK_G, BLOCK_P, BLOCK_REST,
    )  # fmt: skip


# The largest tile, in pairs: each thread of 4 warps holds at most 16.
MAX_TILE = 2048


def rotate(
    q_BHTD: torch.Tensor, k_BGTD: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, inverse: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return q and k rotated, or rotated back if `inverse`, in the same memory layout.

    q and k are float32, float16 or bfloat16. cos and sin are (T, P) or (B, T, P) float32. All
    strides are allowed. Nothing is checked.
    """
    (B, H, T, D), G, P = q_BHTD.shape, k_BGTD.shape[1], cos.shape[-1]
    q_out, k_out = torch.empty_like(q_BHTD), torch.empty_like(k_BGTD)
    # Batch entries share a table without batch dimension: its stride is 0.
    cos_BTP, sin_BTP = cos.expand(B, T, P), sin.expand(B, T, P)
    block_P, rest = triton.next_power_of_2(P), D - 2 * P
    largest = max(MAX_TILE // block_P, 1)
    with torch.cuda.device_of(q_BHTD):
        _rotary_kernel[(B * T,)](
            q_BHTD, q_BHTD.stride(), k_BGTD, k_BGTD.stride(),
            q_out, q_out.stride(), k_out, k_out.stride(),
            cos_BTP, cos_BTP.stride(), sin_BTP, sin_BTP.stride(), T, H, G,
            INVERSE=inverse, P=P, REST=rest,
            BLOCK_H=min(triton.next_power_of_2(H), largest),
            BLOCK_G=min(triton.next_power_of_2(G), largest),
            BLOCK_P=block_P, BLOCK_REST=triton.next_power_of_2(max(rest, 1)),
            num_warps=4, enable_fp_fusion=True,
        )  # fmt: skip
    return q_out, k_out
