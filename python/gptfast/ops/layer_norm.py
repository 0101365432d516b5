"""Layer norm: its definition, its backends, and the function that picks one.

x is (..., C) with C channels, weight and bias are (C,).
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gptfast.errors import UserError
from gptfast.ops.dispatch import choose, no_second_derivative, why_not_triton

# ---- 1. the definition ---------------------------------------------------------------------------


def layer_norm_reference(
    x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    """(x - mean) / sqrt(variance + eps) * weight + bias over the last dimension, in plain PyTorch.

    Computes in float32 (float64 inputs stay float64); `layer_norm` says what goes in and comes out.
    """
    x_wide = x.to(torch.promote_types(x.dtype, torch.float32))
    centered = x_wide - x_wide.mean(-1, keepdim=True)
    out = centered * (centered.square().mean(-1, keepdim=True) + eps).rsqrt()
    if weight is not None:
        out = out * weight
    if bias is not None:
        out = out + bias
    return out.to(x.dtype)


# ---- 2. the backends -----------------------------------------------------------------------------
# PyTorch's own is F.layer_norm. Ours are operators that torch.compile keeps whole; the kernels are
# imported when first called, so that this module works without Triton.


@torch.library.custom_op("gptfast::layer_norm", mutates_args=())
def _layer_norm(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    from gptfast.kernels.layer_norm import layer_norm_forward

    return layer_norm_forward(x, weight, bias, eps)


@_layer_norm.register_fake
def _(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    M = math.prod(x.shape[:-1])
    mean_M, rstd_M = (x.new_empty(M, dtype=torch.float32) for _ in range(2))
    return x.new_empty(x.shape), mean_M, rstd_M


@torch.library.custom_op("gptfast::layer_norm_backward", mutates_args=())
def _layer_norm_backward(
    dout: Tensor, x: Tensor, weight: Tensor | None, mean_M: Tensor, rstd_M: Tensor, has_bias: bool
) -> tuple[Tensor, Tensor, Tensor]:
    from gptfast.kernels.layer_norm import layer_norm_backward

    return layer_norm_backward(dout, x, weight, mean_M, rstd_M, has_bias)


@_layer_norm_backward.register_fake
def _(dout: Tensor, x: Tensor, *_: object) -> tuple[Tensor, Tensor, Tensor]:
    dweight_C, dbias_C = (x.new_empty(x.shape[-1], dtype=torch.float32) for _ in range(2))
    return x.new_empty(x.shape), dweight_C, dbias_C


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, weight, bias, _ = inputs
    _, mean_M, rstd_M = output
    ctx.save_for_backward(x, weight, mean_M, rstd_M)
    ctx.bias_dtype = None if bias is None else bias.dtype


def _backward(ctx: Any, dout: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    x, weight, mean_M, rstd_M = ctx.saved_tensors
    has_bias = ctx.bias_dtype is not None
    dx, dweight, dbias = _layer_norm_backward(dout, x, weight, mean_M, rstd_M, has_bias)
    return (
        dx,
        None if weight is None else dweight.to(weight.dtype),
        dbias.to(ctx.bias_dtype) if has_bias else None,
        None,
    )


_layer_norm.register_autograd(_backward, setup_context=_save_for_backward)
_layer_norm_backward.register_autograd(no_second_derivative("layer_norm"))

# ---- 3. picking one ------------------------------------------------------------------------------


def layer_norm(
    x: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *,
    backend: str = "auto",
) -> Tensor:
    """Return (x - mean) / sqrt(variance + eps) * weight + bias over the last dimension.

    "Layer Normalization", Ba et al. 2016. The variance is the biased one (divided by C).

    Args:
        x: (..., C), any floating dtype, any strides.
        weight: (C,), or None for ones.
        bias: (C,), or None for zeros.
        eps: added to the variance, so that a constant row gives the bias.
        backend: "auto" (PyTorch's op, or else on CUDA Triton, or else the reference),
            or "triton", "torch", "reference".

    Returns:
        A tensor shaped and typed like x.

    Raises:
        UserError: the inputs don't fit together, or the backend named can't serve them.
    """
    _check(x, weight, bias)
    chosen = choose(
        "layer_norm", backend, x.device.type, lambda name: why_not(name, x, weight, bias)
    )
    if chosen == "torch":
        return F.layer_norm(x, x.shape[-1:], weight, bias, eps)
    if chosen == "triton":
        out: Tensor = _layer_norm(x, weight, bias, eps)[0]
        return out
    return layer_norm_reference(x, weight, bias, eps)


def why_not(
    backend: str, x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None
) -> str | None:
    """Say in one sentence why `backend` can't serve these inputs; None if it can."""
    if backend == "triton":
        if x.shape[-1] > 65_536:
            return f"the kernel takes up to 65,536 channels, not {x.shape[-1]}"
        return why_not_triton(x)
    if backend == "torch":
        for parameter in (weight, bias):
            if parameter is not None and parameter.dtype != x.dtype:
                return f"F.layer_norm wants one dtype; x is {x.dtype}, not {parameter.dtype}"
    return None


def _check(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> None:
    if x.ndim == 0 or x.shape[-1] == 0 or not x.is_floating_point():
        raise UserError(
            f"layer_norm: x is {x.dtype} of shape {tuple(x.shape)}; expected a floating dtype and "
            "at least one channel in the last dimension"
        )
    for name, parameter in (("weight", weight), ("bias", bias)):
        if parameter is None:
            continue
        if parameter.shape != x.shape[-1:] or parameter.device != x.device:
            raise UserError(
                f"layer_norm: {name} has shape {tuple(parameter.shape)} on {parameter.device}; "
                f"expected {tuple(x.shape[-1:])} on {x.device}, the last dimension of x"
            )
