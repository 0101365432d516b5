"""What several ops ask of their inputs. Each function raises UserError, in the name of an op."""

import math

import torch
from torch import Tensor

from gptfast.errors import UserError


def check_qkv(op: str, q_BHTD: Tensor, k_BGSD: Tensor, v_BGSD: Tensor) -> None:
    """Refuse queries, keys and values that don't fit together."""
    shapes = f"q {tuple(q_BHTD.shape)}, k {tuple(k_BGSD.shape)}, v {tuple(v_BGSD.shape)}"
    if not q_BHTD.ndim == k_BGSD.ndim == v_BGSD.ndim == 4 or 0 in (*q_BHTD.shape, *k_BGSD.shape):
        raise UserError(f"{op}: expected non-empty (batch, heads, time, head width); {shapes}")
    (B, H, _, D), (B_k, G, _, D_k) = q_BHTD.shape, k_BGSD.shape
    if k_BGSD.shape != v_BGSD.shape or (B_k, D_k) != (B, D) or H % G:
        raise UserError(
            f"{op}: k and v must have one shape, and q their batch and head width and a "
            f"multiple of their heads; given {shapes}"
        )
    check_alike(op, q=q_BHTD, k=k_BGSD, v=v_BGSD)
    if not q_BHTD.is_floating_point():
        raise UserError(f"{op}: q is {q_BHTD.dtype}; expected a floating dtype")


def check_alike(op: str, **tensors: Tensor) -> None:
    """Refuse tensors of which one has another dtype or device than the first."""
    (first_name, first), *others = tensors.items()
    for name, x in others:
        if (x.dtype, x.device) != (first.dtype, first.device):
            raise UserError(
                f"{op}: {first_name} is {first.dtype} on {first.device}, {name} is {x.dtype} on "
                f"{x.device}; move them to one dtype and device with .to()"
            )


def check_window(op: str, window: int | None) -> None:
    """Refuse a window that shows a query not even its own key."""
    if window is not None and window < 1:
        raise UserError(f"{op}: window is {window}; expected at least 1, or None for all")


def check_softcap(op: str, softcap: float | None) -> None:
    """Refuse a soft cap that is no positive number."""
    if softcap is not None and not 0 < softcap < math.inf:
        raise UserError(f"{op}: softcap is {softcap}; expected more than 0, or None for none")


def can_look_at(values: Tensor) -> bool:
    """Whether values may be checked: elsewhere it would wait for the GPU, or break a graph."""
    return values.device.type == "cpu" and not torch.compiler.is_compiling()
