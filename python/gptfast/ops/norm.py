"""Layer norm and RMS norm: definitions, backends and dispatch.

x is (..., C): C channels, M rows over all leading dimensions. weight and bias are (C,).
"""

import functools
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gptfast.errors import UserError
from gptfast.ops.checks import check_tensors, checked_float
from gptfast.ops.dispatch import choose, no_second_derivative, why_not_triton
from gptfast.ops.operator import operator
from gptfast.ops.rules import Work, training_and_dtype

# The devices on which autocast computes norms in float32. On the CPU it keeps the dtype.
AUTOCAST_DEVICES = ("cuda",)

# ---- 1. the definitions --------------------------------------------------------------------------


def layer_norm_reference(
    x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    """Normalise x over the last dimension by the formula of `layer_norm`, in plain PyTorch.

    Computes in float32 (float64 inputs stay float64). `layer_norm` describes the arguments.
    """
    x_wide = x.to(torch.promote_types(x.dtype, torch.float32))
    centered = x_wide - x_wide.mean(-1, keepdim=True)
    out = centered * (centered.square().mean(-1, keepdim=True) + eps).rsqrt()
    if weight is not None:
        out = out * weight
    if bias is not None:
        out = out + bias
    return out.to(x.dtype)


def rms_norm_reference(x: Tensor, weight: Tensor | None = None, eps: float = 1e-6) -> Tensor:
    """Normalise x over the last dimension by the formula of `rms_norm`, in plain PyTorch.

    Computes in float32 (float64 inputs stay float64). `rms_norm` describes the arguments.
    """
    x_wide = x.to(torch.promote_types(x.dtype, torch.float32))
    out = x_wide * (x_wide.square().mean(-1, keepdim=True) + eps).rsqrt()
    if weight is not None:
        out = out * weight
    return out.to(x.dtype)


# ---- 2. the backends -----------------------------------------------------------------------------
# "torch" is F.layer_norm and F.rms_norm. "triton" is one operator for both norms, which
# torch.compile keeps whole. Its kernels are imported on the first call, so that this module works
# without Triton.


def _norm_torch(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, centered: bool
) -> Tensor:
    # Not all of PyTorch's norms accept parameters of another dtype than x.
    dtypes = (t.dtype for t in (x, weight, bias) if t is not None)
    wide = functools.reduce(torch.promote_types, dtypes)
    weight, bias = (None if p is None else p.to(wide) for p in (weight, bias))
    if centered:
        return F.layer_norm(x.to(wide), x.shape[-1:], weight, bias, eps).to(x.dtype)
    return F.rms_norm(x.to(wide), x.shape[-1:], weight, eps).to(x.dtype)


@operator("norm")
def _norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    centered: bool,
    out_dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor]:
    from gptfast.kernels.norm import norm_forward

    return norm_forward(x, weight, bias, eps, centered, out_dtype)


@_norm.register_fake
def _(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    centered: bool,
    out_dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor]:
    M = math.prod(x.shape[:-1])
    return (
        x.new_empty(x.shape, dtype=out_dtype),
        x.new_empty(M if centered else 0, dtype=torch.float32),
        x.new_empty(M, dtype=torch.float32),
    )


@operator("norm_backward")
def _norm_backward(
    dout: Tensor,
    x: Tensor,
    weight: Tensor | None,
    mean_M: Tensor,
    rstd_M: Tensor,
    has_bias: bool,
    centered: bool,
) -> tuple[Tensor, Tensor]:
    from gptfast.kernels.norm import norm_backward

    return norm_backward(dout, x, weight, mean_M, rstd_M, has_bias, centered)


@_norm_backward.register_fake
def _(
    dout: Tensor,
    x: Tensor,
    weight: Tensor | None,
    mean_M: Tensor,
    rstd_M: Tensor,
    has_bias: bool,
    centered: bool,
) -> tuple[Tensor, Tensor]:
    n = (weight is not None) + has_bias
    return x.new_empty(x.shape), x.new_empty(n, x.shape[-1], dtype=torch.float32)


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, weight, bias, _, ctx.centered, _ = inputs
    _, mean_M, rstd_M = output
    ctx.save_for_backward(x, weight, mean_M, rstd_M)
    ctx.dtypes = [None if t is None else t.dtype for t in (x, weight, bias)]
    ctx.set_materialize_grads(False)  # no zeros for the mean and rstd


def _backward(ctx: Any, dout: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
    if dout is None:
        return (None,) * 6
    has_weight, has_bias = (dtype is not None for dtype in ctx.dtypes[1:])
    dx, sums_NC = _norm_backward(dout, *ctx.saved_tensors, has_bias, ctx.centered)
    dweight_C = sums_NC[0] if has_weight else None
    dbias_C = sums_NC[-1] if has_bias else None
    gradients = zip((dx, dweight_C, dbias_C), ctx.dtypes, strict=True)
    return (*(None if dtype is None else d.to(dtype) for d, dtype in gradients), None, None, None)


_norm.register_autograd(_backward, setup_context=_save_for_backward)
_norm_backward.register_autograd(no_second_derivative("layer_norm, rms_norm"))


# ---- 3. the dispatch -----------------------------------------------------------------------------


def layer_norm(
    x: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *,
    backend: str | None = None,
) -> Tensor:
    """Return (x - mean) / sqrt(variance + eps) * weight + bias over the last dimension.

    "Layer Normalization", Ba et al. 2016. The variance is biased (divided by C).

    Args:
        x: (..., C), any floating dtype, any strides.
        weight: (C,), or None for ones.
        bias: (C,), or None for zeros.
        eps: added to the variance, so that a constant row gives the bias.
        backend: "auto", "triton", "torch" or "reference". None means the process's default, see
            `set_backend`. On CUDA, "auto" chooses the fastest backend by measurement
            (gptfast.ops.rules). On other devices, and under torch.compile, which fuses the norm,
            it chooses PyTorch's op. If its choice can't serve, "auto" takes the next backend and
            logs this once.

    Returns:
        A tensor shaped and typed like x. Under autocast on CUDA it is float32, as from
        F.layer_norm.

    Raises:
        UserError: the inputs don't match, or the given backend can't serve them.
    """
    return _pick("layer_norm", x, weight, bias, eps, backend)


def rms_norm(
    x: Tensor,
    weight: Tensor | None = None,
    eps: float = 1e-6,
    *,
    backend: str | None = None,
) -> Tensor:
    """Return x / sqrt(mean of x^2 + eps) * weight over the last dimension.

    "Root Mean Square Layer Normalization", Zhang & Sennrich 2019, eq. 4.

    Args:
        x: (..., C), any floating dtype, any strides.
        weight: (C,), or None for ones.
        eps: added to the mean square, so that a row of zeros gives zeros.
        backend: as for `layer_norm`.

    Returns:
        A tensor shaped and typed like x. Under autocast on CUDA it is float32 for every version of
        PyTorch, as from F.rms_norm since 2.12.

    Raises:
        UserError: the inputs don't match, or the given backend can't serve them.
    """
    return _pick("rms_norm", x, weight, None, eps, backend)


def _pick(
    op: str,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    backend: str | None,
) -> Tensor:
    _check(op, x, weight, bias)
    eps = checked_float(op, "eps", eps)
    if not 0 <= eps < math.inf:
        raise UserError(f"{op}: eps is {eps}; expected 0 or more, such as 1e-5")
    chosen = choose(work(op, x, weight, bias), backend, x.device, lambda name: why_not(name, x))
    centered = op == "layer_norm"
    out_dtype = torch.float32 if _autocasts(x) else x.dtype
    if chosen == "triton":
        # The kernel takes strides only for x.
        weight, bias = (None if p is None else p.contiguous() for p in (weight, bias))
        normalised: Tensor = _norm(x, weight, bias, eps, centered, out_dtype)[0]
        return normalised
    x = x.to(out_dtype)
    if chosen == "torch":
        return _norm_torch(x, weight, bias, eps, centered)
    if centered:
        return layer_norm_reference(x, weight, bias, eps)
    return rms_norm_reference(x, weight, eps)


def why_not(backend: str, x: Tensor) -> str | None:
    """Return the reason why `backend` can't serve these inputs, or None if it can."""
    if backend == "triton":
        if x.shape[-1] > 65_536:
            return f"the kernel takes up to 65,536 channels, not {x.shape[-1]}"
        return why_not_triton(x)
    return None


def work(op: str, x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None) -> Work:
    """Return the `Work` of a call, for the rules."""
    tensors = [t for t in (x, weight, bias) if t is not None]
    width = "narrow" if x.shape[-1] <= 2048 else "wide"
    return Work(op, f"{training_and_dtype(*tensors)}, {width}", x.numel())


def _autocasts(x: Tensor) -> bool:
    """Return whether autocast computes the norm of x in float32; float64 is exempt."""
    device = x.device.type
    return (
        device in AUTOCAST_DEVICES
        and torch.is_autocast_enabled(device)
        and x.dtype != torch.float64
    )


def _check(op: str, x: Tensor, weight: Tensor | None, bias: Tensor | None) -> None:
    check_tensors(op, x=x)
    if x.ndim == 0 or x.shape[-1] == 0 or not x.is_floating_point():
        raise UserError(
            f"{op}: x is {x.dtype} of shape {tuple(x.shape)}; expected a floating dtype and "
            "at least one channel in the last dimension"
        )
    for name, parameter in (("weight", weight), ("bias", bias)):
        if parameter is None:
            continue
        check_tensors(op, **{name: parameter})
        if parameter.shape != x.shape[-1:] or parameter.device != x.device:
            raise UserError(
                f"{op}: {name} has shape {tuple(parameter.shape)} on {parameter.device}; "
                f"expected {tuple(x.shape[-1:])} on {x.device}, the last dimension of x"
            )
        if not parameter.is_floating_point():
            raise UserError(f"{op}: {name} is {parameter.dtype}; expected a floating dtype")
