"""The cross entropy of each token, which is `linear_cross_entropy` with reduction="none".

Each token's gradient has its own factor, which is unknown before the backward pass. The forward
pass therefore keeps no gradients, and the backward pass recomputes the logits chunk by chunk.

Shape suffixes: M tokens, C channels, V vocabulary.
"""

from typing import Any

import torch
from torch import Tensor

from gptfast.ops.dispatch import no_second_derivative, without_autocast
from gptfast.ops.logit_chunks import in_chunks, scaled
from gptfast.ops.operator import operator


@operator("token_losses")
def token_losses(
    hidden_MC: Tensor,
    weight_VC: Tensor,
    targets_M: Tensor,
    ignore_index: int,
    softcap: float | None,
    use_triton: bool,
) -> Tensor:
    """Return the loss of each token, (M,), float32 (float64 for float64); 0 where ignored."""
    inputs = (hidden_MC, weight_VC, targets_M, ignore_index, softcap)
    return in_chunks(*inputs, False, False, use_triton)[0]


@token_losses.register_fake
def _(hidden_MC: Tensor, *_: object) -> Tensor:
    wide = torch.promote_types(hidden_MC.dtype, torch.float32)
    return hidden_MC.new_empty(hidden_MC.shape[0], dtype=wide)


@operator("token_losses_backward")
@without_autocast
def _token_losses_backward(
    dlosses_M: Tensor,
    hidden_MC: Tensor,
    weight_VC: Tensor,
    targets_M: Tensor,
    ignore_index: int,
    softcap: float | None,
    needs_dhidden: bool,
    needs_dweight: bool,
    use_triton: bool,
) -> tuple[Tensor, Tensor]:
    # Divide the factors by the largest, and multiply by it at the end. Otherwise the factors of a
    # mean, one over the number of tokens, would make gradients underflow in float16.
    tiny = dlosses_M.new_full((1,), torch.finfo(dlosses_M.dtype).tiny)
    largest = torch.cat((dlosses_M.abs(), tiny)).amax()
    _, dhidden_MC, dweight_VC = in_chunks(
        hidden_MC,
        weight_VC,
        targets_M,
        ignore_index,
        softcap,
        needs_dhidden,
        needs_dweight,
        use_triton,
        dlosses_M / largest,
    )
    return scaled(largest, dhidden_MC, dweight_VC)


@_token_losses_backward.register_fake
def _(
    dlosses_M: Tensor,
    hidden_MC: Tensor,
    weight_VC: Tensor,
    targets_M: Tensor,
    ignore_index: int,
    softcap: float | None,
    needs_dhidden: bool,
    needs_dweight: bool,
    use_triton: bool,
) -> tuple[Tensor, Tensor]:
    (M, C), V = hidden_MC.shape, weight_VC.shape[0]
    return (
        hidden_MC.new_empty(M if needs_dhidden else 0, C),
        hidden_MC.new_empty(V if needs_dweight else 0, C),
    )


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.ignore_index, ctx.softcap, ctx.use_triton = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx: Any, dlosses_M: Tensor) -> tuple[Tensor | None, ...]:
    needs_dhidden, needs_dweight, *_ = ctx.needs_input_grad
    options = (ctx.ignore_index, ctx.softcap, needs_dhidden, needs_dweight, ctx.use_triton)
    dhidden_MC, dweight_VC = _token_losses_backward(dlosses_M, *ctx.saved_tensors, *options)
    return (
        dhidden_MC if needs_dhidden else None,
        dweight_VC if needs_dweight else None,
        *[None] * 4,
    )


token_losses.register_autograd(_backward, setup_context=_save_for_backward)
_token_losses_backward.register_autograd(no_second_derivative("linear_cross_entropy"))
