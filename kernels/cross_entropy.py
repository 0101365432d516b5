# mypy: ignore-errors
"""Cross entropy in Triton: the loss of each token, and its gradient written over the logits.

"Online normalizer calculation for softmax", Milakov and Gimelshein 2018,
https://arxiv.org/abs/1805.02867. README.md in this folder derives the gradient. The tests compare
the kernel with `linear_cross_entropy_reference` in ops/linear_cross_entropy.py, which also has the
matrix products.

Shape suffixes: N tokens of a chunk, V vocabulary. Inside the kernel, `_V` is one block of a row.
"""

import torch
import triton
import triton.language as tl

from gptfast.kernels.soft_cap import soft_cap

# Finite, so that a logit of -inf gives e^(-inf) = 0 instead of NaN.
LOWEST = tl.constexpr(torch.finfo(torch.float32).min)


@triton.jit
def _capped(logits, softcap):
    """Return softcap * tanh(logits / softcap) in float32."""
    x = logits.to(tl.float32)
    if softcap is not None:
        x = soft_cap(x, softcap)
    return x


@triton.jit
def _cross_entropy_kernel(
    logits, targets, targets_stride, losses, ignore_index, softcap,
    WRITE_GRADIENT: tl.constexpr, V: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    """Process one token: read its logits twice and overwrite them with the gradient."""
    row = logits + tl.program_id(0).to(tl.int64) * V  # 64 bits: logits may exceed 2^31 elements
    target = tl.load(targets + tl.program_id(0).to(tl.int64) * targets_stride)
    is_kept = target != ignore_index
    is_inside = (target >= 0) & (target < V)
    target_x = _capped(tl.load(row + target, mask=is_inside, other=0.0), softcap)

    largest = LOWEST
    normalizer = 0.0  # sum of e^(x - largest) so far
    for start in range(0, V, BLOCK_V):
        columns = start + tl.arange(0, BLOCK_V)
        x_V = _capped(tl.load(row + columns, mask=columns < V, other=0.0), softcap)
        x_V = tl.where(columns < V, x_V, float("-inf"))
        new_largest = tl.maximum(largest, tl.max(x_V, 0))
        normalizer *= tl.exp(largest - new_largest)
        normalizer += tl.sum(tl.exp(x_V - new_largest), 0)
        largest = new_largest
    # A target outside the vocabulary gives NaN: raising an error would synchronize the GPU.
    lse = tl.where(is_inside, largest + tl.log(normalizer), float("nan"))

    tl.store(losses + tl.program_id(0), tl.where(is_kept, lse - target_x, 0.0))

    if WRITE_GRADIENT:
        for start in range(0, V, BLOCK_V):
            columns = start + tl.arange(0, BLOCK_V)
            x_V = _capped(tl.load(row + columns, mask=columns < V, other=0.0), softcap)
            dx_V = tl.exp(x_V - lse) - tl.where(columns == target, 1.0, 0.0)
            if softcap is not None:
                dx_V *= 1 - (x_V / softcap) * (x_V / softcap)
            dx_V = tl.where(is_kept, dx_V, 0.0).to(logits.dtype.element_ty)
            tl.store(row + columns, dx_V, mask=columns < V)


LARGEST_BLOCK = 16384
LARGEST_BLOCK_CAPPED = 4096


def cross_entropy(
    logits_NV: torch.Tensor,
    targets_N: torch.Tensor,
    ignore_index: int,
    softcap: float | None,
    write_gradient: bool,
) -> torch.Tensor:
    """Return the loss of each token, (N,) float32, 0 where its target is `ignore_index`.

    With `write_gradient`, overwrite the logits with the gradient of the summed losses. The logits
    are contiguous float32, float16 or bfloat16, and the targets are int64. Nothing is checked.
    """
    N, V = logits_NV.shape
    losses_N = torch.empty(N, device=logits_NV.device, dtype=torch.float32)
    # The tanh of the cap takes time and registers, so small blocks are fastest with a cap.
    largest_V = LARGEST_BLOCK if softcap is None else LARGEST_BLOCK_CAPPED
    block_V = min(triton.next_power_of_2(V), largest_V)
    with torch.cuda.device_of(logits_NV):
        _cross_entropy_kernel[(N,)](
            logits_NV, targets_N, targets_N.stride(0), losses_N,
            ignore_index, softcap, WRITE_GRADIENT=write_gradient,
            V=V, BLOCK_V=block_V, num_warps=min(max(block_V // 512, 1), 16), enable_fp_fusion=True,
        )  # fmt: skip
    return losses_N
