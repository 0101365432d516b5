"""The output layer and its cross entropy in one: definition, backends, and what picks one.

Shape suffixes: M tokens (all leading dimensions as one), N tokens of a chunk, C channels, V
vocabulary.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gptfast.errors import UserError
from gptfast.ops.checks import can_look_at, check_alike, check_softcap
from gptfast.ops.dispatch import autocast, choose, no_second_derivative, why_not_triton
from gptfast.ops.operator import operator
from gptfast.ops.rules import Work, training_and_dtype

# ---- 1. the definition ---------------------------------------------------------------------------


def linear_cross_entropy_reference(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    ignore_index: int = -100,
    softcap: float | None = None,
) -> Tensor:
    """The loss in plain PyTorch, all logits at once; `linear_cross_entropy` says what goes in.

    Multiplies in the inputs' dtype as F.linear does, and computes the loss in float32 (float64
    inputs stay float64).
    """
    targets_M = targets.reshape(-1)
    x_MV = _capped(F.linear(hidden.reshape(-1, hidden.shape[-1]), weight), softcap)
    losses_M = _losses(x_MV, x_MV.logsumexp(-1), targets_M, ignore_index)
    return _mean(losses_M.sum(), targets_M, ignore_index)


def _capped(logits: Tensor, softcap: float | None) -> Tensor:
    x = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return x if softcap is None else softcap * torch.tanh(x / softcap)


def _losses(x_MV: Tensor, lse_M: Tensor, targets_M: Tensor, ignore_index: int) -> Tensor:
    """Return each token's loss, 0 where its target is ignored."""
    is_ignored_M = targets_M == ignore_index
    target_x_M = x_MV.gather(-1, targets_M.masked_fill(is_ignored_M, 0)[:, None])[:, 0]
    return (lse_M - target_x_M).masked_fill(is_ignored_M, 0)


def _mean(loss_sum: Tensor, targets_M: Tensor, ignore_index: int) -> Tensor:
    """Divide by the number of tokens that count. If none does: NaN, with gradients of 0."""
    count = (targets_M != ignore_index).sum()
    return (loss_sum / count.clamp(min=1)).masked_fill(count == 0, math.nan)


# ---- 2. the backends -----------------------------------------------------------------------------
# PyTorch has no fused op. "torch" and "triton" go through the tokens in chunks: the logits of one
# chunk, its losses, its gradients, and then the same memory serves the next. Gradients are linear
# in the loss's own gradient, so the forward computes them, and the backward only scales them.


def _step_torch(
    logits_NV: Tensor,
    targets_N: Tensor,
    ignore_index: int,
    softcap: float | None,
    write_gradient: bool,
) -> Tensor:
    """Return a chunk's losses; with `write_gradient` the logits become their sum's gradient."""
    x_NV = _capped(logits_NV, softcap)
    lse_N = x_NV.logsumexp(-1)
    losses_N = _losses(x_NV, lse_N, targets_N, ignore_index)
    if write_gradient:
        is_ignored_N = targets_N == ignore_index
        dx_NV = (x_NV - lse_N[:, None]).exp_()
        rows_N = torch.arange(len(targets_N), device=targets_N.device)
        dx_NV[rows_N, targets_N.masked_fill(is_ignored_N, 0)] -= 1
        if softcap is not None:
            dx_NV *= 1 - (x_NV / softcap).square_()
        logits_NV.copy_(dx_NV.masked_fill_(is_ignored_N[:, None], 0))
    return losses_N


def _in_chunks(
    step: Callable[..., Tensor],
    chunk: int,
    hidden_MC: Tensor,
    weight_VC: Tensor,
    targets_M: Tensor,
    options: tuple[int, float | None],
    needs_dhidden: bool,
    needs_dweight: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the sum of the losses and its gradients: dhidden typed like hidden, dweight wide.

    A gradient that isn't needed comes with no rows. Not yet the gradients of the mean: divided by
    the number of tokens, most of them would vanish in float16.
    """
    (M, C), V = hidden_MC.shape, len(weight_VC)
    wide = torch.promote_types(hidden_MC.dtype, torch.float32)
    dhidden_MC = hidden_MC.new_empty(M if needs_dhidden else 0, C)
    dweight_VC = weight_VC.new_zeros(V if needs_dweight else 0, C, dtype=wide)
    losses_M = hidden_MC.new_empty(M, dtype=wide)
    for start in range(0, M, chunk):
        tokens = slice(start, start + chunk)
        logits_NV = F.linear(hidden_MC[tokens], weight_VC)
        losses_M[tokens] = step(
            logits_NV, targets_M[tokens], *options, needs_dhidden or needs_dweight
        )
        # From here on logits_NV holds the gradient of the logits.
        if needs_dhidden:
            torch.mm(logits_NV, weight_VC, out=dhidden_MC[tokens])
        if needs_dweight:
            _add_product(dweight_VC, logits_NV.T, hidden_MC[tokens])
        del logits_NV  # so that the next chunk gets its memory
    return losses_M.sum(), dhidden_MC, dweight_VC


def tokens_at_a_time(C: int, dtype: torch.dtype, device: torch.device, use_triton: bool) -> int:
    """How many tokens of C channels make a chunk."""
    # Its logits take as much memory as dweight, which is there anyway; or more, where so few tokens
    # would have little to do for each reading of the weight and of dweight.
    wide = torch.promote_types(dtype, torch.float32)
    least = 256
    if device.type == "cuda":
        least = 4096 if use_triton else 2048  # PyTorch's operators make float32 copies of logits
    return max(C * wide.itemsize // dtype.itemsize, least)


def _add_product(sum_VC: Tensor, a_VN: Tensor, b_NC: Tensor) -> None:
    """sum += a @ b, of which the sum may be wider: then unrounded, if the device can do that."""
    if a_VN.dtype == sum_VC.dtype:
        sum_VC.addmm_(a_VN, b_NC)
    elif a_VN.is_cuda and torch.version.hip is None:
        torch.addmm(sum_VC, a_VN, b_NC, out_dtype=sum_VC.dtype, out=sum_VC)
    else:
        sum_VC += a_VN @ b_NC


# Operators that torch.compile keeps whole; the kernel is imported when first called, so that this
# module works without Triton.


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
    step = _step_torch
    if use_triton:
        from gptfast.kernels.cross_entropy import cross_entropy as step
    chunk = tokens_at_a_time(hidden_MC.shape[1], hidden_MC.dtype, hidden_MC.device, use_triton)
    options = (ignore_index, softcap)
    return _in_chunks(
        step, chunk, hidden_MC, weight_VC, targets_M, options, needs_dhidden, needs_dweight
    )


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
    # In float32, as a factor of one over the number of tokens is too coarse in half precision.
    dhidden_MC, dweight_VC = (
        (gradient.to(dloss_sum.dtype) * dloss_sum).to(dhidden_MC.dtype)
        for gradient in (dhidden_MC, dweight_VC)
    )
    return dhidden_MC, dweight_VC


@_linear_cross_entropy_backward.register_fake
def _(dloss_sum: Tensor, dhidden_MC: Tensor, dweight_VC: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(dhidden_MC), torch.empty_like(dweight_VC, dtype=dhidden_MC.dtype)


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *_, ctx.needs_dhidden, ctx.needs_dweight, _ = inputs
    _, dhidden_MC, dweight_VC = output
    ctx.save_for_backward(dhidden_MC, dweight_VC)
    ctx.set_materialize_grads(False)  # no zeros for the outputs that only the backward reads


def _backward(ctx: Any, dloss_sum: Tensor, *_: None) -> tuple[Tensor | None, ...]:
    dhidden_MC, dweight_VC = _linear_cross_entropy_backward(dloss_sum, *ctx.saved_tensors)
    return (
        dhidden_MC if ctx.needs_dhidden else None,
        dweight_VC if ctx.needs_dweight else None,
        *[None] * 6,
    )


_linear_cross_entropy.register_autograd(_backward, setup_context=_save_for_backward)
_linear_cross_entropy_backward.register_autograd(no_second_derivative("linear_cross_entropy"))

# ---- 3. picking one ------------------------------------------------------------------------------


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    ignore_index: int = -100,
    softcap: float | None = None,
    backend: str = "auto",
) -> Tensor:
    """Return the mean cross entropy of logits hidden @ weight^T, which never exist all at once.

    Per token it is log sum_v e^(x_v) - x_target, with x the logits (capped, if asked): what
    F.cross_entropy(F.linear(hidden, weight).float(), targets) computes. Under autocast the matrix
    product is in the autocast dtype, as F.linear's is. The definition's gradient needs several
    tensors of tokens times vocabulary; the other backends keep two, sized like hidden and weight.

    Args:
        hidden: (..., C), any floating dtype, any strides.
        weight: (V, C), of the same dtype unless autocast is on.
        targets: (...), int64, each from 0 to V - 1 or `ignore_index`. Another value is an error on
            the CPU. On CUDA, where looking would make the GPU wait, "triton" returns a loss of NaN,
            and PyTorch's own indexing in "torch" and "reference" ends with a device-side assert.
        ignore_index: a target that does not count: neither in the loss nor in the mean.
        softcap: x becomes softcap * tanh(x / softcap) for each logit x ("Gemma 2", 2024). None for
            no cap.
        backend: "auto" (on CUDA what was measured to be the fastest: gptfast.ops.rules; else
            "torch", in chunks by PyTorch's operators), or "triton", "torch", "reference".

    Returns:
        The mean over the tokens that count, a scalar in float32 (float64 for float64 inputs). If
        none does it is NaN, and the gradients are 0, as in PyTorch.

    Raises:
        UserError: the inputs don't fit together, or the backend named can't serve them.
    """
    hidden, weight = autocast(hidden, weight)
    _check(hidden, weight, targets, softcap)
    _check_values(targets, len(weight), ignore_index)
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
        )
    targets_M = targets.reshape(-1)
    loss_sum, _, _ = _linear_cross_entropy(
        hidden.reshape(-1, hidden.shape[-1]),
        weight,
        targets_M,
        ignore_index,
        softcap,
        torch.is_grad_enabled() and hidden.requires_grad,
        torch.is_grad_enabled() and weight.requires_grad,
        chosen == "triton",
    )
    return _mean(loss_sum, targets_M, ignore_index)


def why_not(backend: str, hidden: Tensor) -> str | None:
    """Say in one sentence why `backend` can't serve these inputs; None if it can."""
    return why_not_triton(hidden) if backend == "triton" else None


def work(hidden: Tensor, weight: Tensor) -> Work:
    """Describe a call for the rules."""
    tokens = hidden.numel() // hidden.shape[-1]
    return Work("linear_cross_entropy", training_and_dtype(hidden, weight), tokens)


def _check(hidden: Tensor, weight: Tensor, targets: Tensor, softcap: float | None) -> None:
    if hidden.ndim == 0 or hidden.shape[-1] == 0 or not hidden.is_floating_point():
        raise UserError(
            f"linear_cross_entropy: hidden is {hidden.dtype} of shape {tuple(hidden.shape)}; "
            "expected a floating dtype and (..., channels), as (batch, time, channels)"
        )
    if weight.ndim != 2 or weight.shape[1] != hidden.shape[-1] or len(weight) == 0:
        raise UserError(
            f"linear_cross_entropy: weight has shape {tuple(weight.shape)}; expected "
            f"(vocabulary, {hidden.shape[-1]}) for hidden {tuple(hidden.shape)}"
        )
    check_alike("linear_cross_entropy", hidden=hidden, weight=weight)
    if (targets.shape, targets.device) != (hidden.shape[:-1], hidden.device):
        raise UserError(
            f"linear_cross_entropy: targets have shape {tuple(targets.shape)} on {targets.device}; "
            f"expected {tuple(hidden.shape[:-1])} on {hidden.device}, one for each token of hidden"
        )
    if targets.dtype != torch.int64:
        raise UserError(
            f"linear_cross_entropy: targets are {targets.dtype}; expected torch.int64, as from "
            ".long()"
        )
    check_softcap("linear_cross_entropy", softcap)


def _check_values(targets: Tensor, V: int, ignore_index: int) -> None:
    if can_look_at(targets):
        is_outside = ((targets < 0) | (targets >= V)) & (targets != ignore_index)
        if is_outside.any():
            raise UserError(
                f"linear_cross_entropy: a target is {targets[is_outside][0]}; expected 0 to "
                f"{V - 1}, or {ignore_index} for a token that does not count"
            )
