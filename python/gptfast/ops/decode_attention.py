"""Attention of the newest tokens to a cache: definition, backends and dispatch.

Shape suffixes as in ops/attention.py. S is the capacity of the cache. Batch entry b holds
`lengths_B[b]` keys, and its T queries belong to the last T of them.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from gptfast.errors import UserError
from gptfast.ops.attention import (
    attention_weights,
    positively_scaled,
    weighted_sum,
    why_not_triton_heads,
    width,
)
from gptfast.ops.checks import (
    can_look_at,
    check_qkv,
    check_tensors,
    checked_scale,
    checked_window,
)
from gptfast.ops.dispatch import autocast, choose, without_autocast
from gptfast.ops.operator import operator
from gptfast.ops.rules import Work, training_and_dtype

# ---- 1. the definition ---------------------------------------------------------------------------


@without_autocast
def decode_attention_reference(
    q_BHTD: Tensor,
    k_BGSD: Tensor,
    v_BGSD: Tensor,
    lengths_B: Tensor | None = None,
    *,
    window: int | None = None,
    scale: float | None = None,
) -> Tensor:
    """Return softmax(q k^T * scale) v over the keys in the cache, in plain PyTorch.

    Computes in float32 (float64 inputs stay float64). `decode_attention` describes the arguments.
    """
    mask_B1TS = _mask(q_BHTD, k_BGSD, lengths_B, window)
    return weighted_sum(attention_weights(q_BHTD, k_BGSD, mask_B1TS, scale), v_BGSD)


def _mask(q_BHTD: Tensor, k_BGSD: Tensor, lengths_B: Tensor | None, window: int | None) -> Tensor:
    """Return the (B, 1, T, S) mask, True where a query does not see a key."""
    (B, _, T, _), S, device = q_BHTD.shape, k_BGSD.shape[2], q_BHTD.device
    if lengths_B is None:
        lengths_B = torch.full((B,), S, device=device)
    newest_BT = lengths_B[:, None] - T + torch.arange(T, device=device)
    ahead_BTS = torch.arange(S, device=device) - newest_BT[..., None]
    mask_BTS = ahead_BTS > 0
    if window is not None:
        mask_BTS |= ahead_BTS <= -window
    return mask_BTS[:, None]


# ---- 2. the backends -----------------------------------------------------------------------------
# "torch" is PyTorch's fused op with a mask. "triton" is an operator that torch.compile keeps whole.
# Its kernel is imported on the first call, so that this module works without Triton.


@operator("decode_attention")
def _decode_attention(
    q_BHTD: Tensor,
    k_BGSD: Tensor,
    v_BGSD: Tensor,
    lengths_B: Tensor | None,
    scale: float,
    window: int | None,
) -> Tensor:
    from gptfast.kernels.decode_attention import decode_attention

    return decode_attention(q_BHTD, k_BGSD, v_BGSD, lengths_B, scale, window)


@_decode_attention.register_fake
def _(q_BHTD: Tensor, *_: object) -> Tensor:
    return q_BHTD.new_empty(q_BHTD.shape)


# ---- 3. the dispatch -----------------------------------------------------------------------------


def decode_attention(
    q_BHTD: Tensor,
    k_BGSD: Tensor,
    v_BGSD: Tensor,
    lengths_B: Tensor | None = None,
    *,
    window: int | None = None,
    scale: float | None = None,
    backend: str | None = None,
) -> Tensor:
    """Return causal attention of the T newest tokens of each batch entry to its cache.

    This op is for sampling and has no gradient. It equals `attention` if every entry has S keys.

    Args:
        q_BHTD: queries, (B, H, T, D), any floating dtype, any strides. T is small, usually 1.
        k_BGSD: keys, (B, G, S, D). H is a multiple of G.
        v_BGSD: values, shaped like the keys.
        lengths_B: number of keys of each entry, (B,) int32 or int64; None means S. The last T keys
            are those of the queries. The unused rest of the cache must be finite. Each length must
            be from T to S. The CPU checks this; on CUDA, where a check would synchronize the GPU,
            a longer length counts as S.
        window: number of newest keys that a query sees, its own included. None means all.
        scale: factor of the logits, a number of any sign. None means 1/sqrt(D).
        backend: as for `attention`.

    Returns:
        The output, shaped and typed like q, or in the autocast dtype under autocast.

    Raises:
        UserError: the inputs don't match, or the given backend can't serve them.
    """
    check_tensors("decode_attention", q=q_BHTD, k=k_BGSD, v=v_BGSD)
    q_BHTD, k_BGSD, v_BGSD = autocast(q_BHTD, k_BGSD, v_BGSD)
    check_qkv("decode_attention", q_BHTD, k_BGSD, v_BGSD)
    window = checked_window("decode_attention", window)
    scale = checked_scale("decode_attention", scale)
    _check(q_BHTD, k_BGSD, v_BGSD, lengths_B)
    chosen = choose(
        work(q_BHTD, k_BGSD, lengths_B is not None or window is not None),
        backend,
        q_BHTD.device,
        lambda name: why_not(name, q_BHTD, k_BGSD),
    )
    if chosen == "reference":
        return decode_attention_reference(
            q_BHTD, k_BGSD, v_BGSD, lengths_B, window=window, scale=scale
        )
    q_BHTD, scale = positively_scaled(q_BHTD, scale)
    if chosen == "triton":
        lengths_B = None if lengths_B is None else lengths_B.contiguous()
        out_BHTD: Tensor = _decode_attention(q_BHTD, k_BGSD, v_BGSD, lengths_B, scale, window)
        return out_BHTD
    # A single query is the newest token, which sees every key.
    needs_mask = lengths_B is not None or window is not None or q_BHTD.shape[2] > 1
    return F.scaled_dot_product_attention(
        q_BHTD,
        k_BGSD,
        v_BGSD,
        attn_mask=~_mask(q_BHTD, k_BGSD, lengths_B, window) if needs_mask else None,
        scale=scale,
        enable_gqa=bool(q_BHTD.shape[1] != k_BGSD.shape[1]),
    )


def work(q_BHTD: Tensor, k_BGSD: Tensor, is_bounded: bool) -> Work:
    """Return the `Work` of a call, for the rules. Lengths and windows make it bounded."""
    B, G, S, _ = k_BGSD.shape
    kind = f"{training_and_dtype(q_BHTD)}, {width(q_BHTD)}{', bounded' if is_bounded else ''}"
    return Work("decode_attention", kind, B * G * S)


# The rows of a key head lie in one tile of the kernel.
_MAX_ROWS = 64


def why_not(backend: str, q_BHTD: Tensor, k_BGSD: Tensor) -> str | None:
    """Return the reason why `backend` can't serve these inputs, or None if it can."""
    if backend == "triton":
        (_, H, T, _), G = q_BHTD.shape, k_BGSD.shape[1]
        if H // G * T > _MAX_ROWS:
            return (
                f"the kernel takes up to {_MAX_ROWS} queries for a key head, not {H // G} heads "
                f"times {T}; use gptfast.ops.attention"
            )
        return why_not_triton_heads(q_BHTD)
    return None


def _check(
    q_BHTD: Tensor,
    k_BGSD: Tensor,
    v_BGSD: Tensor,
    lengths_B: Tensor | None,
) -> None:
    op = "decode_attention"
    if torch.is_grad_enabled() and any(x.requires_grad for x in (q_BHTD, k_BGSD, v_BGSD)):
        raise UserError(f"{op} has no gradient: use torch.no_grad(), or gptfast.ops.attention")
    (B, _, T, _), S = q_BHTD.shape, k_BGSD.shape[2]
    if T > S:
        raise UserError(f"{op}: {S} keys for {T} queries; expected at least as many keys")
    if lengths_B is None:
        return
    check_tensors(op, lengths_B=lengths_B)
    is_integer = lengths_B.dtype in (torch.int32, torch.int64)
    if lengths_B.shape != (B,) or not is_integer or lengths_B.device != q_BHTD.device:
        raise UserError(
            f"{op}: lengths_B is {lengths_B.dtype} of shape {tuple(lengths_B.shape)} on "
            f"{lengths_B.device}; expected int32 or int64 of shape ({B},) on {q_BHTD.device}"
        )
    if can_look_at(lengths_B) and (lengths_B.min() < T or lengths_B.max() > S):
        raise UserError(
            f"{op}: lengths_B is {lengths_B.tolist()}; expected from {T}, the number of queries, "
            f"to {S}, the number of keys"
        )
