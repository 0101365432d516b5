"""Input checks that several ops share. A failed check raises UserError, which names the op."""

import math

import torch
from torch import Tensor

from gptfast.errors import UserError


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


def check_window(op: str, window: int | None) -> None:
    """Raise UserError for a window that hides a query's own key."""
    if window is not None and window < 1:
        raise UserError(f"{op}: window is {window}; expected at least 1, or None for all keys")


def check_softcap(op: str, softcap: float | None) -> None:
    """Raise UserError unless the soft cap is None or a positive finite number."""
    if softcap is not None and not 0 < softcap < math.inf:
        raise UserError(f"{op}: softcap is {softcap}; expected more than 0, or None for no cap")


def can_look_at(values: Tensor) -> bool:
    """Return whether values can be checked without a GPU synchronization or a graph break."""
    return values.device.type == "cpu" and not torch.compiler.is_compiling()
