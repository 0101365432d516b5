"""Rotary position embedding: definition, backends and dispatch.

Shape suffixes: B batch, T time, H query heads, G key heads, D head width, P channel pairs. The
first 2 P channels of each head are rotated. `cos` and `sin` are (T, P), or (B, T, P) if positions
differ within the batch.
"""

from typing import Any

import torch
from torch import Tensor

from gptfast.errors import UserError
from gptfast.ops.checks import check_alike, check_tensors
from gptfast.ops.dispatch import choose, why_not_triton
from gptfast.ops.operator import operator
from gptfast.ops.rules import Work, training_and_dtype


def rotary_frequencies(rotary_width: int, base: float = 10_000.0) -> Tensor:
    """Return the angle of each channel pair between adjacent positions, in radians, (P,) float64.

    The angle of pair p is base^(-2 p / rotary_width) ("RoFormer", Su et al. 2021, section 3.2.2),
    for P = rotary_width / 2 pairs. The last pair turns almost `base` times slower than the first.
    Raises UserError if the width is not even or the base is not positive.
    """
    if rotary_width < 2 or rotary_width % 2:
        raise UserError(
            f"rotary_frequencies: rotary_width is {rotary_width}; expected 2, 4, 6, ..."
        )
    if not base > 0:
        raise UserError(
            f"rotary_frequencies: base is {base}; expected more than 0, such as 10000.0"
        )
    return base ** -(torch.arange(0, rotary_width, 2).double() / rotary_width)


def rotary_tables(positions: Tensor, frequencies_P: Tensor) -> tuple[Tensor, Tensor]:
    """Return the cosine and sine of position * frequency for each position and pair.

    Args:
        positions: (T,) or (B, T), integer or floating.
        frequencies_P: (P,), for instance from `rotary_frequencies`. They rotate 2 P channels.

    Returns:
        cos and sin, (T, P) or (B, T, P), float32. They are computed in float64, because a float32
        angle may be off by 0.04 at position 1,000,000.

    Raises:
        UserError: positions have another shape or dtype.
    """
    if positions.ndim not in (1, 2) or positions.is_complex() or positions.dtype == torch.bool:
        raise UserError(
            f"rotary_tables: positions are {positions.dtype} of shape {tuple(positions.shape)}; "
            "expected numbers of shape (time,) or (batch, time)"
        )
    angles = positions.double()[..., None] * frequencies_P.double().to(positions.device)
    return angles.cos().float(), angles.sin().float()


# ---- 1. the definition ---------------------------------------------------------------------------


def rotary_reference(
    q_BHTD: Tensor, k_BGTD: Tensor, cos: Tensor, sin: Tensor
) -> tuple[Tensor, Tensor]:
    """Rotate each channel pair by its angle, in plain PyTorch.

    Computes in float32 (float64 inputs stay float64). `rotary` describes the arguments.
    """
    return _rotated(q_BHTD, cos, sin), _rotated(k_BGTD, cos, sin)


def _rotated(x_BHTD: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    P = cos.shape[-1]
    cos, sin = cos.unsqueeze(-3), sin.unsqueeze(-3)  # all heads share the angles
    x1, x2 = x_BHTD[..., :P], x_BHTD[..., P : 2 * P]
    rotated = torch.cat((x1 * cos - x2 * sin, x2 * cos + x1 * sin), dim=-1)
    return torch.cat((rotated.to(x_BHTD.dtype), x_BHTD[..., 2 * P :]), dim=-1)


# ---- 2. the backends -----------------------------------------------------------------------------
# PyTorch has no such op. "triton" is an operator that torch.compile keeps whole. Its kernel is
# imported on the first call, so that this module works without Triton.


@operator("rotary")
def _rotary(
    q_BHTD: Tensor, k_BGTD: Tensor, cos: Tensor, sin: Tensor, inverse: bool
) -> tuple[Tensor, Tensor]:
    from gptfast.kernels.rotary import rotate

    return rotate(q_BHTD, k_BGTD, cos, sin, inverse)


@_rotary.register_fake
def _(q_BHTD: Tensor, k_BGTD: Tensor, *_: object) -> tuple[Tensor, Tensor]:
    return torch.empty_like(q_BHTD), torch.empty_like(k_BGTD)


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    _, _, cos, sin, ctx.inverse = inputs
    ctx.save_for_backward(cos, sin)


def _backward(ctx: Any, dq_BHTD: Tensor, dk_BGTD: Tensor) -> tuple[Tensor | None, ...]:
    """Rotate back, with the same operator, which therefore has all higher derivatives.

    The result is in new memory, because autograd may share the incoming gradient.
    """
    return (*_rotary(dq_BHTD, dk_BGTD, *ctx.saved_tensors, not ctx.inverse), None, None, None)


_rotary.register_autograd(_backward, setup_context=_save_for_backward)


# ---- 3. the dispatch -----------------------------------------------------------------------------


def rotary(
    q_BHTD: Tensor,
    k_BGTD: Tensor,
    cos: Tensor,
    sin: Tensor,
    *,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Return q and k with each channel pair rotated by an angle that grows with the position.

    "RoFormer", Su et al. 2021, eq. 34, in the "half" convention of Llama and GPT-NeoX: channel p
    is paired with channel p + P (the paper pairs 2 p with 2 p + 1). x_p becomes
    x_p cos - x_{p+P} sin, and x_{p+P} becomes x_{p+P} cos + x_p sin.

    Args:
        q_BHTD: queries, (B, H, T, D), any floating dtype, any strides.
        k_BGTD: keys, (B, G, T, D), of the same dtype.
        cos: cosines of the angles, (T, P) or (B, T, P), float32, for instance from
            `rotary_tables`. P is at least 1, and 2 P is at most D. Channels from 2 P on are not
            rotated.
        sin: sines of the angles, shaped like cos. Neither cos nor sin gets a gradient.
        backend: "auto", "triton" or "reference". None means the process's default, see
            `set_backend`; a default of "torch" means the reference. "auto" chooses Triton on CUDA.
            On other devices, and under torch.compile, which fuses it, "auto" chooses the reference.

    Returns:
        The rotated queries and keys, shaped and typed like q and k.

    Raises:
        UserError: the inputs don't match, or the given backend can't serve them.
    """
    _check(q_BHTD, k_BGTD, cos, sin)
    chosen = choose(
        work(q_BHTD, k_BGTD), backend, q_BHTD.device, lambda name: why_not(name, q_BHTD)
    )
    if chosen == "triton":
        rotated: tuple[Tensor, Tensor] = _rotary(q_BHTD, k_BGTD, cos, sin, False)
        return rotated
    return rotary_reference(q_BHTD, k_BGTD, cos, sin)


def why_not(backend: str, q_BHTD: Tensor) -> str | None:
    """Return the reason why `backend` can't serve these inputs, or None if it can."""
    return why_not_triton(q_BHTD) if backend == "triton" else None


def work(q_BHTD: Tensor, k_BGTD: Tensor) -> Work:
    """Return the `Work` of a call, for the rules."""
    return Work("rotary", training_and_dtype(q_BHTD, k_BGTD), q_BHTD.numel())


def _check(q_BHTD: Tensor, k_BGTD: Tensor, cos: Tensor, sin: Tensor) -> None:
    check_tensors("rotary", q=q_BHTD, k=k_BGTD, cos=cos, sin=sin)
    shapes = f"q {tuple(q_BHTD.shape)}, k {tuple(k_BGTD.shape)}"
    if not q_BHTD.ndim == k_BGTD.ndim == 4 or 0 in (*q_BHTD.shape, *k_BGTD.shape):
        raise UserError(f"rotary: {shapes}; expected non-empty (batch, heads, time, head width)")
    B, _, T, D = q_BHTD.shape
    if (k_BGTD.shape[0], *k_BGTD.shape[2:]) != (B, T, D):
        raise UserError(f"rotary: {shapes}; only the number of heads may differ between q and k")
    check_alike("rotary", q=q_BHTD, k=k_BGTD)
    if not q_BHTD.is_floating_point():
        raise UserError(f"rotary: q is {q_BHTD.dtype}; expected a floating dtype")
    check_alike("rotary", cos=cos, sin=sin)
    P = cos.shape[-1]
    if cos.shape != sin.shape or cos.shape not in ((T, P), (B, T, P)) or not 2 <= 2 * P <= D:
        raise UserError(
            f"rotary: cos has shape {tuple(cos.shape)}, sin {tuple(sin.shape)}; expected one of "
            f"({T}, pairs) and ({B}, {T}, pairs) for both, with 1 to {D // 2} pairs"
        )
    if (cos.dtype, cos.device) != (torch.float32, q_BHTD.device):
        raise UserError(
            f"rotary: cos is {cos.dtype} on {cos.device}; expected torch.float32 on "
            f"{q_BHTD.device}; use gptfast.ops.rotary.rotary_tables"
        )
    if cos.requires_grad or sin.requires_grad:
        raise UserError("rotary: cos and sin get no gradient; pass cos.detach(), sin.detach()")
