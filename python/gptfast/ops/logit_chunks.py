"""Cross entropy chunk by chunk: the losses and gradients of a few tokens at a time.

The Triton kernel is imported on the first call, so that this module works without Triton.

Shape suffixes: M tokens, N tokens of a chunk, C channels, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Step = Callable[[Tensor, Tensor, int, "float | None", bool], Tensor]
"""Computes the losses (N,) of a chunk. The arguments are the logits (N, V), the targets (N,), the
ignored target, the soft cap, and whether to overwrite the logits with the gradient of the summed
losses."""


def in_chunks(
    hidden_MC: Tensor,
    weight_VC: Tensor,
    targets_M: Tensor,
    ignore_index: int,
    softcap: float | None,
    needs_dhidden: bool,
    needs_dweight: bool,
    use_triton: bool,
    dlosses_M: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the loss of each token, dhidden typed like hidden, and dweight in float32 or wider.

    dlosses_M: factor of each token's gradient, at most 1; None means ones. A gradient that isn't
    needed has no rows.
    """
    if hidden_MC.device.type == "cpu" and not use_triton:  # on a GPU, a look would synchronize
        counted_N = (targets_M != ignore_index).nonzero().flatten()
        if len(counted_N) < len(targets_M):
            return _of_counted(
                counted_N, hidden_MC, weight_VC, targets_M, ignore_index, softcap,
                needs_dhidden, needs_dweight, dlosses_M,
            )  # fmt: skip
    (M, C), V = hidden_MC.shape, len(weight_VC)
    wide = torch.promote_types(hidden_MC.dtype, torch.float32)
    dhidden_MC = hidden_MC.new_empty(M if needs_dhidden else 0, C)
    dweight_VC = weight_VC.new_zeros(V if needs_dweight else 0, C, dtype=wide)
    losses_M = hidden_MC.new_empty(M, dtype=wide)
    step: Step = step_torch
    if use_triton:
        from gptfast.kernels.cross_entropy import cross_entropy as step
    chunk = tokens_at_a_time(C, hidden_MC.dtype, hidden_MC.device, use_triton)
    needs_gradient = needs_dhidden or needs_dweight
    for start in range(0, M, chunk):
        tokens = slice(start, start + chunk)
        hidden_NC = hidden_MC[tokens]
        logits_NV = F.linear(hidden_NC, weight_VC)
        losses_M[tokens] = step(logits_NV, targets_M[tokens], ignore_index, softcap, needs_gradient)
        # From here on, logits_NV holds the gradient of the logits.
        if needs_dhidden:
            torch.mm(logits_NV, weight_VC, out=dhidden_MC[tokens])
        if dlosses_M is not None:  # scales C numbers per token instead of V
            hidden_NC = (hidden_NC * dlosses_M[tokens, None]).to(hidden_NC.dtype)
        if needs_dweight:
            _add_product(dweight_VC, logits_NV.T, hidden_NC)
        del logits_NV  # frees the memory for the next chunk
    if dlosses_M is not None and needs_dhidden:
        dhidden_MC = (dhidden_MC * dlosses_M[:, None]).to(dhidden_MC.dtype)
    return losses_M, dhidden_MC, dweight_VC


def _of_counted(
    counted_N: Tensor,
    hidden_MC: Tensor,
    weight_VC: Tensor,
    targets_M: Tensor,
    ignore_index: int,
    softcap: float | None,
    needs_dhidden: bool,
    needs_dweight: bool,
    dlosses_M: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return what `in_chunks` does, from the logits of the tokens with these numbers alone.

    In fine-tuning, most targets may be ignored.
    """
    losses_N, dhidden_NC, dweight_VC = in_chunks(
        hidden_MC[counted_N],
        weight_VC,
        targets_M[counted_N],
        ignore_index,
        softcap,
        needs_dhidden,
        needs_dweight,
        False,
        None if dlosses_M is None else dlosses_M[counted_N],
    )
    losses_M = losses_N.new_zeros(len(targets_M)).index_copy_(0, counted_N, losses_N)
    if not needs_dhidden:
        return losses_M, dhidden_NC, dweight_VC
    dhidden_MC = torch.zeros_like(hidden_MC).index_copy_(0, counted_N, dhidden_NC)
    return losses_M, dhidden_MC, dweight_VC


def tokens_at_a_time(C: int, dtype: torch.dtype, device: torch.device, use_triton: bool) -> int:
    """Return the number of tokens, of C channels each, in a chunk."""
    # The logits of a chunk take as much memory as dweight, which exists anyway. With small C they
    # take more: a chunk of few tokens would read the weight and dweight for too little work.
    wide = torch.promote_types(dtype, torch.float32)
    least = 256
    if device.type == "cuda":
        least = 4096 if use_triton else 2048  # PyTorch's ops copy the logits to float32
    return max(C * wide.itemsize // dtype.itemsize, least)


def step_torch(
    logits_NV: Tensor,
    targets_N: Tensor,
    ignore_index: int,
    softcap: float | None,
    write_gradient: bool,
) -> Tensor:
    """Compute a `Step` with PyTorch's operators."""
    x_NV = capped(logits_NV, softcap)
    lse_N = x_NV.logsumexp(-1)
    losses_N = losses(x_NV, lse_N, targets_N, ignore_index)
    if write_gradient:
        is_ignored_N = targets_N == ignore_index
        dx_NV = (x_NV - lse_N[:, None]).exp_()
        rows_N = torch.arange(len(targets_N), device=targets_N.device)
        dx_NV[rows_N, targets_N.masked_fill(is_ignored_N, 0)] -= 1
        if softcap is not None:
            dx_NV *= 1 - (x_NV / softcap).square_()
        logits_NV.copy_(dx_NV.masked_fill_(is_ignored_N[:, None], 0))
    return losses_N


def capped(logits: Tensor, softcap: float | None) -> Tensor:
    """Return softcap * tanh(logits / softcap) in float32 (float64 stays float64)."""
    x = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return x if softcap is None else softcap * torch.tanh(x / softcap)


def losses(x_MV: Tensor, lse_M: Tensor, targets_M: Tensor, ignore_index: int) -> Tensor:
    """Return the loss of each token, 0 where its target is ignored."""
    is_ignored_M = targets_M == ignore_index
    target_x_M = x_MV.gather(-1, targets_M.masked_fill(is_ignored_M, 0)[:, None])[:, 0]
    return (lse_M - target_x_M).masked_fill(is_ignored_M, 0)


def scaled(factor: Tensor, dhidden_MC: Tensor, dweight_VC: Tensor) -> tuple[Tensor, Tensor]:
    """Return both gradients times `factor`, typed like dhidden."""
    # Multiply in float32: a factor of one over the number of tokens is too coarse in float16.
    dtype = dhidden_MC.dtype
    return (
        (dhidden_MC.to(factor.dtype) * factor).to(dtype),
        (dweight_VC.to(factor.dtype) * factor).to(dtype),
    )


def _add_product(sum_VC: Tensor, a_VN: Tensor, b_NC: Tensor) -> None:
    """Add a @ b to the sum. If the sum is wider, the product is not rounded where supported."""
    if a_VN.dtype == sum_VC.dtype:
        sum_VC.addmm_(a_VN, b_NC)
    elif a_VN.is_cuda and torch.version.hip is None:
        torch.addmm(sum_VC, a_VN, b_NC, out_dtype=sum_VC.dtype, out=sum_VC)
    else:
        sum_VC += a_VN @ b_NC
