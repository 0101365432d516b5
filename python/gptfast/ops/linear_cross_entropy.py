"""The output layer fused with its cross entropy: definition, backends and dispatch.

Shape suffixes: M tokens (all leading dimensions flattened), C channels, V vocabulary.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gptfast.errors import UserError, as_int64
from gptfast.ops.checks import (
    Reduction,
    check_alike,
    check_reduction,
    check_targets,
    check_tensors,
    checked_softcap,
)
from gptfast.ops.dispatch import autocast, choose, no_second_derivative, why_not_triton
from gptfast.ops.logit_chunks import capped, in_chunks, losses, scaled
from gptfast.ops.operator import is_traced, is_transformed, operator
from gptfast.ops.rules import Work, training_and_dtype
from gptfast.ops.token_losses import token_losses

# ---- 1. the definition ---------------------------------------------------------------------------


def linear_cross_entropy_reference(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    ignore_index: int = -100,
    softcap: float | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Return the loss in plain PyTorch, from all logits at once.

    Multiplies in the inputs' dtype, as F.linear does, and computes the loss in float32 (float64
    inputs stay float64). `linear_cross_entropy` describes the arguments.
    """
    targets_M = targets.reshape(-1)
    x_MV = capped(F.linear(hidden.reshape(-1, hidden.shape[-1]), weight), softcap)
    losses_M = losses(x_MV, x_MV.logsumexp(-1), targets_M, ignore_index)
    if reduction == "none":
        return losses_M.view(targets.shape)
    if reduction == "sum":
        return losses_M.sum()
    return _mean(losses_M.sum(), targets_M, ignore_index)


def _mean(loss_sum: Tensor, targets_M: Tensor, ignore_index: int) -> Tensor:
    """Divide by the number of targets that are not ignored; NaN with gradients of 0 if none."""
    count = (targets_M != ignore_index).sum()
    return (loss_sum / count.clamp(min=1)).masked_fill(count == 0, math.nan)


# ---- 2. the backends -----------------------------------------------------------------------------
# PyTorch has no fused op. "torch" and "triton" process the tokens in chunks (logit_chunks.py): they
# compute the logits of a chunk, its losses and its gradients, then reuse the memory for the next.
# The gradients of the mean are those of the sum times one factor. The forward pass therefore
# computes them, and the backward pass only multiplies. token_losses.py has reduction="none". Both
# are operators that torch.compile keeps whole.


@operator("linear_cross_entropy")
def _linear_cross_entropy(
    hidden_MC: Tensor,
    weight_VC: Tensor,
    targets_M: Tensor,
    ignore_index: int,
    softcap: float | None,
    needs_dhidden: bool,
    needs_dweight: bool,
    use_triton: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the sum of the losses and its gradients.

    The gradients are not those of the mean: divided by the number of tokens, most of them would
    underflow in float16.
    """
    losses_M, dhidden_MC, dweight_VC = in_chunks(
        hidden_MC,
        weight_VC,
        targets_M,
        ignore_index,
        softcap,
        needs_dhidden,
        needs_dweight,
        use_triton,
    )
    return losses_M.sum(), dhidden_MC, dweight_VC


@_linear_cross_entropy.register_fake
def _(
    hidden_MC: Tensor,
    weight_VC: Tensor,
    targets_M: Tensor,
    ignore_index: int,
    softcap: float | None,
    needs_dhidden: bool,
    needs_dweight: bool,
    use_triton: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    (M, C), V = hidden_MC.shape, weight_VC.shape[0]
    wide = torch.promote_types(hidden_MC.dtype, torch.float32)
    return (
        hidden_MC.new_empty((), dtype=wide),
        hidden_MC.new_empty(M if needs_dhidden else 0, C),
        weight_VC.new_empty(V if needs_dweight else 0, C, dtype=wide),
    )


@operator("linear_cross_entropy_backward")
def _linear_cross_entropy_backward(
    dloss_sum: Tensor, dhidden_MC: Tensor, dweight_VC: Tensor
) -> tuple[Tensor, Tensor]:
    return scaled(dloss_sum, dhidden_MC, dweight_VC)


@_linear_cross_entropy_backward.register_fake
def _(dloss_sum: Tensor, dhidden_MC: Tensor, dweight_VC: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(dhidden_MC), torch.empty_like(dweight_VC, dtype=dhidden_MC.dtype)


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *_, ctx.needs_dhidden, ctx.needs_dweight, _ = inputs
    _, dhidden_MC, dweight_VC = output
    ctx.save_for_backward(dhidden_MC, dweight_VC)
    ctx.set_materialize_grads(False)  # no zeros for outputs that only backward reads


def _backward(ctx: Any, dloss_sum: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
    if dloss_sum is None:
        return (None,) * 8
    dhidden_MC, dweight_VC = _linear_cross_entropy_backward(dloss_sum, *ctx.saved_tensors)
    return (
        dhidden_MC if ctx.needs_dhidden else None,
        dweight_VC if ctx.needs_dweight else None,
        *[None] * 6,
    )


_linear_cross_entropy.register_autograd(_backward, setup_context=_save_for_backward)
_linear_cross_entropy_backward.register_autograd(no_second_derivative("linear_cross_entropy"))

# ---- 3. the dispatch -----------------------------------------------------------------------------


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    ignore_index: int = -100,
    softcap: float | None = None,
    reduction: Reduction = "mean",
    backend: str | None = None,
) -> Tensor:
    """Return the cross entropy of the logits hidden @ weight^T, which never exist all at once.

    The loss of a token is log sum_v e^(x_v) - x_target, where x are the (optionally capped) logits,
    as in F.cross_entropy(F.linear(hidden, weight).float(), targets). Under autocast, the matrix
    product uses the autocast dtype, as F.linear does. The gradient of the definition needs several
    tensors of tokens times vocabulary; the other backends keep two, sized like hidden and weight.
    Forward and backward take three matrix products, or four with reduction="none", whose backward
    recomputes the logits.

    Args:
        hidden: (..., C), any floating dtype, any strides.
        weight: (V, C), of the same dtype unless autocast is on.
        targets: (...), int64, each from 0 to V - 1 or `ignore_index`. The CPU raises for any other
            value. On CUDA, where a check would synchronize the GPU, "triton" returns a loss of NaN,
            and PyTorch's indexing in "torch" and "reference" fails with a device-side assert.
        ignore_index: targets of this value are excluded from the loss and from the mean.
        softcap: cap of the logits: each logit x becomes softcap * tanh(x / softcap) ("Gemma 2",
            2024). None means no cap.
        reduction: "mean" or "sum" over the targets that are not ignored, or "none" for the loss of
            each token.
        backend: "auto", "triton", "torch" or "reference". None means the process's default, see
            `set_backend`. On CUDA, "auto" chooses the fastest backend by measurement
            (gptfast.ops.rules); on other devices it chooses "torch", chunks of PyTorch's operators.

    Returns:
        The mean or the sum as a scalar. If all targets are ignored, the mean is NaN with gradients
        of 0, as in PyTorch. With reduction="none", the loss of each token, shaped like targets, 0
        where the target is `ignore_index`. The result is float32 (float64 for float64 inputs).

    Raises:
        UserError: the inputs don't match, or the given backend can't serve them.
    """
    check_reduction("linear_cross_entropy", reduction)
    op = "linear_cross_entropy"
    check_tensors(op, hidden=hidden, weight=weight)
    hidden, weight = autocast(hidden, weight)
    _check(hidden, weight)
    softcap = checked_softcap(op, softcap)
    ignore_index = as_int64(f"{op}: ignore_index", ignore_index)
    check_targets(op, targets, hidden.shape[:-1], hidden.device, len(weight), ignore_index)
    chosen = choose(
        work(hidden, weight), backend, hidden.device, lambda name: why_not(name, hidden)
    )
    if chosen == "reference":
        return linear_cross_entropy_reference(
            hidden,
            weight,
            targets,
            ignore_index=ignore_index,
            softcap=softcap,
            reduction=reduction,
        )
    use_triton = chosen == "triton"
    targets_M = targets.reshape(-1)
    inputs = (hidden.reshape(-1, hidden.shape[-1]), weight, targets_M, ignore_index, softcap)
    if reduction == "none":
        losses_M: Tensor = token_losses(*inputs, use_triton)
        return losses_M.view(targets.shape)
    # vmap hides whether a tensor requires a gradient. A trace may be called with or without one.
    needs_dhidden, needs_dweight = (
        is_traced() or (torch.is_grad_enabled() and (x.requires_grad or is_transformed()))
        for x in (hidden, weight)
    )
    loss_sum, _, _ = _linear_cross_entropy(*inputs, needs_dhidden, needs_dweight, use_triton)
    return loss_sum if reduction == "sum" else _mean(loss_sum, targets_M, ignore_index)


def why_not(backend: str, hidden: Tensor) -> str | None:
    """Return the reason why `backend` can't serve these inputs, or None if it can."""
    return why_not_triton(hidden) if backend == "triton" else None


def work(hidden: Tensor, weight: Tensor) -> Work:
    """Return the `Work` of a call, for the rules."""
    tokens = hidden.numel() // hidden.shape[-1]
    return Work("linear_cross_entropy", training_and_dtype(hidden, weight), tokens)


def _check(hidden: Tensor, weight: Tensor) -> None:
    if hidden.ndim == 0 or hidden.shape[-1] == 0 or not hidden.is_floating_point():
        raise UserError(
            f"linear_cross_entropy: hidden is {hidden.dtype} of shape {tuple(hidden.shape)}; "
            "expected a floating dtype and (..., channels), such as (batch, time, channels)"
        )
    if weight.ndim != 2 or weight.shape[1] != hidden.shape[-1] or len(weight) == 0:
        raise UserError(
            f"linear_cross_entropy: weight has shape {tuple(weight.shape)}; expected "
            f"(vocabulary, {hidden.shape[-1]}) for hidden {tuple(hidden.shape)}"
        )
    check_alike("linear_cross_entropy", hidden=hidden, weight=weight)
