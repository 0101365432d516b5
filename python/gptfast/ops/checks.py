"""Input checks that several ops share. A failed check raises UserError, which names the op."""

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from gptfast.errors import UserError, as_float, as_int64
from gptfast.ops.operator import is_transformed, is_watched

Reduction = Literal["mean", "sum", "none"]
"""What a loss returns: the mean or the sum over the targets that count, or each token's loss."""


def check_tensors(op: str, **values: object) -> None:
    """Raise UserError unless all values are tensors."""
    for name, value in values.items():
        if not isinstance(value, Tensor):
            raise UserError(
                f"{op}: {name} is a {type(value).__name__}; expected a Tensor, for instance from "
                f"torch.as_tensor"
            )


def checked_float(op: str, name: str, value: object) -> float:
    """Return a number as a float. Raise UserError for other types.

    A tensor is refused, because the op would take its value and leave it without a gradient.
    """
    if type(value) is float:
        return value
    if isinstance(value, Tensor):
        raise UserError(
            f"{op}: {name} is a {type(value).__name__}, which would get no gradient: expected a "
            f"number, such as {name}.item()"
        )
    return as_float(f"{op}: {name}", value)


def check_qkv(op: str, q_BHTD: Tensor, k_BGSD: Tensor, v_BGSD: Tensor) -> None:
    """Raise UserError if the queries, keys and values don't match."""
    shapes = f"q {tuple(q_BHTD.shape)}, k {tuple(k_BGSD.shape)}, v {tuple(v_BGSD.shape)}"
    if not q_BHTD.ndim == k_BGSD.ndim == v_BGSD.ndim == 4 or 0 in (*q_BHTD.shape, *k_BGSD.shape):
        raise UserError(f"{op}: {shapes}; expected non-empty (batch, heads, time, head width)")
    (B, H, _, D), (B_k, G, _, D_k) = q_BHTD.shape, k_BGSD.shape
    if k_BGSD.shape != v_BGSD.shape or (B_k, D_k) != (B, D) or H % G:
        raise UserError(
            f"{op}: {shapes}; expected k and v of one shape, and q with the same batch and head "
            f"width and a multiple of their heads"
        )
    check_alike(op, q=q_BHTD, k=k_BGSD, v=v_BGSD)
    if not q_BHTD.is_floating_point():
        raise UserError(f"{op}: q is {q_BHTD.dtype}; expected a floating dtype")


def check_alike(op: str, **tensors: Tensor) -> None:
    """Raise UserError unless all tensors have the dtype and device of the first."""
    (first_name, first), *others = tensors.items()
    for name, x in others:
        if (x.dtype, x.device) != (first.dtype, first.device):
            raise UserError(
                f"{op}: {first_name} is {first.dtype} on {first.device}, {name} is {x.dtype} on "
                f"{x.device}; move them to one dtype and device with .to()"
            )


def checked_window(op: str, window: int | None) -> int | None:
    """Return the window, at most 2^30. Raise UserError if it hides a query's own key."""
    if window is None:
        return None
    window = as_int64(f"{op}: window", window)
    if window < 1:
        raise UserError(f"{op}: window is {window}; expected at least 1, or None for all keys")
    # The kernels add positions to the window in 32 bits. The limit doesn't depend on the number of
    # keys, which torch.jit.trace would keep as a constant.
    return min(window, 2**30)


def checked_scale(op: str, scale: float | None) -> float | None:
    """Return the scale. Raise UserError unless it is None or a finite number."""
    if scale is None:
        return None
    scale = checked_float(op, "scale", scale)
    if not -math.inf < scale < math.inf:
        raise UserError(f"{op}: scale is {scale}; expected a finite number, or None for 1/sqrt(D)")
    return scale


def checked_softcap(op: str, softcap: float | None) -> float | None:
    """Return the soft cap. Raise UserError unless it is None or a positive finite number."""
    if softcap is None:
        return None
    softcap = checked_float(op, "softcap", softcap)
    if not 0 < softcap < math.inf:
        raise UserError(f"{op}: softcap is {softcap}; expected more than 0, or None for no cap")
    return softcap


def check_cu_seqlens(op: str, cu_seqlens: Tensor, n_tokens: int, device: torch.device) -> None:
    """Raise UserError unless cu_seqlens are boundaries of n_tokens, ascending from 0."""
    check_tensors(op, cu_seqlens=cu_seqlens)
    is_integer = cu_seqlens.dtype in (torch.int32, torch.int64)
    if cu_seqlens.ndim != 1 or not is_integer or cu_seqlens.device != device:
        raise UserError(
            f"{op}: cu_seqlens is {cu_seqlens.dtype} of shape {tuple(cu_seqlens.shape)} on "
            f"{cu_seqlens.device}; expected int32 or int64 with one dimension on {device}"
        )
    if can_look_at(cu_seqlens):
        lengths = cu_seqlens.diff()
        ends = None if len(lengths) == 0 else (int(cu_seqlens[0]), int(cu_seqlens[-1]))
        if ends != (0, n_tokens) or lengths.min() < 0:
            raise UserError(
                f"{op}: cu_seqlens is {cu_seqlens.tolist()}; expected ascending numbers from "
                f"0 to the number of tokens, {n_tokens}"
            )


def check_reduction(op: str, reduction: str) -> None:
    """Raise UserError unless the reduction is known."""
    if reduction not in get_args(Reduction):
        raise UserError(f"{op}: reduction is {reduction!r}; expected 'mean', 'sum' or 'none'")


def check_targets(
    op: str, targets: Tensor, shape: torch.Size, device: torch.device, V: int, ignore_index: int
) -> None:
    """Raise UserError unless the targets are int64 of that shape, each 0 to V - 1 or ignored."""
    check_tensors(op, targets=targets)
    if (targets.shape, targets.device) != (shape, device):
        raise UserError(
            f"{op}: targets have shape {tuple(targets.shape)} on {targets.device}; "
            f"expected {tuple(shape)} on {device}, one for each token"
        )
    if targets.dtype != torch.int64:
        raise UserError(
            f"{op}: targets are {targets.dtype}; expected torch.int64, for instance from .long()"
        )
    if can_look_at(targets):
        is_outside = ((targets < 0) | (targets >= V)) & (targets != ignore_index)
        if is_outside.any():
            raise UserError(
                f"{op}: a target is {targets[is_outside][0]}; expected 0 to {V - 1}, or "
                f"{ignore_index} for an ignored token"
            )


def can_look_at(values: Tensor) -> bool:
    """Return whether values can be checked: on the CPU, and not while PyTorch traces or transforms.

    On a GPU, a check would be a synchronization.
    """
    return values.device.type == "cpu" and not is_watched((values,)) and not is_transformed()
