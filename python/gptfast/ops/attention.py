"""Scaled dot-product attention: its definition, its backends, and the function that picks one.

Shape suffixes: B batch, T query time, S key time, H query heads, G key/value heads (H is a
multiple of G; query head h reads key/value head h // (H // G)), D head width.
"""

from typing import Any, Literal, overload

import torch
import torch.nn.functional as F
from torch import Tensor

from gptfast.errors import UserError
from gptfast.ops.dispatch import TRITON_INTERPRETED, choose, no_second_derivative, why_not_triton

# ---- 1. the definition ---------------------------------------------------------------------------


def attention_reference(
    q_BHTD: Tensor,
    k_BGSD: Tensor,
    v_BGSD: Tensor,
    *,
    causal: bool = True,
    scale: float | None = None,
    dropout_p: float = 0.0,
    return_lse: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """softmax(q k^T * scale) v in plain PyTorch; `attention` says what goes in and comes out.

    Computes in float32 (float64 inputs stay float64) and holds all B*H*T*S logits at once.
    """
    T, S = q_BHTD.shape[2], k_BGSD.shape[2]
    compute_dtype = torch.promote_types(q_BHTD.dtype, torch.float32)
    group = q_BHTD.shape[1] // k_BGSD.shape[1]
    k_BHSD = k_BGSD.to(compute_dtype).repeat_interleave(group, dim=1)
    v_BHSD = v_BGSD.to(compute_dtype).repeat_interleave(group, dim=1)

    hidden_TS = _hidden(T, S, causal, q_BHTD.device)
    logits_BHTS = (q_BHTD.to(compute_dtype) @ k_BHSD.mT) * _scale(q_BHTD, scale)
    # The lowest finite number instead of -inf, and a zero weight after the softmax: otherwise a
    # query that sees no key would be 0/0, here and in the gradient.
    lowest = torch.finfo(compute_dtype).min
    weights_BHTS = logits_BHTS.masked_fill(hidden_TS, lowest).softmax(-1)
    weights_BHTS = F.dropout(weights_BHTS.masked_fill(hidden_TS, 0), dropout_p)
    out_BHTD = (weights_BHTS @ v_BHSD).to(q_BHTD.dtype)
    if not return_lse:
        return out_BHTD
    return out_BHTD, logits_BHTS.masked_fill(hidden_TS, float("-inf")).logsumexp(-1)


def _hidden(T: int, S: int, causal: bool, device: torch.device) -> Tensor:
    """Return the (T, S) mask that is True where query t may not look at key s.

    The last query is aligned with the last key, so that the T newest tokens see a cache of S.
    """
    visible_TS = torch.ones(T, S, dtype=torch.bool, device=device)
    return ~(visible_TS.tril(S - T) if causal else visible_TS)


def _scale(q_BHTD: Tensor, scale: float | None) -> float:
    return q_BHTD.shape[-1] ** -0.5 if scale is None else scale


# ---- 2. the backends -----------------------------------------------------------------------------


def _attention_torch(
    q_BHTD: Tensor, k_BGSD: Tensor, v_BGSD: Tensor, causal: bool, scale: float, dropout_p: float
) -> Tensor:
    """PyTorch's fused op, whose own `is_causal` aligns the first query with the first key.

    With dropout on the CPU, PyTorch leaves its fused path and holds all the logits.
    """
    T, S = q_BHTD.shape[2], k_BGSD.shape[2]
    unseeing = max(T - S, 0) if causal else 0  # the first queries, which see no key
    is_square = T - unseeing == S
    # One query, the newest, sees every key.
    needs_mask = causal and not is_square and T > 1
    out_BHTD = F.scaled_dot_product_attention(
        q_BHTD[:, :, unseeing:],
        k_BGSD,
        v_BGSD,
        attn_mask=~_hidden(T, S, causal, q_BHTD.device) if needs_mask else None,
        is_causal=causal and is_square,
        scale=scale,
        dropout_p=dropout_p,
        enable_gqa=q_BHTD.shape[1] != k_BGSD.shape[1],
    )
    return F.pad(out_BHTD, (0, 0, unseeing, 0)) if unseeing else out_BHTD


# Our kernels, as operators that torch.compile keeps whole. They are imported when first called,
# so that this module works without Triton.


@torch.library.custom_op("gptfast::flash_attention", mutates_args=())
def _flash_attention(
    q_BHTD: Tensor, k_BGSD: Tensor, v_BGSD: Tensor, causal: bool, scale: float
) -> tuple[Tensor, Tensor]:
    from gptfast.kernels.flash_attention import flash_attention_forward

    return flash_attention_forward(q_BHTD, k_BGSD, v_BGSD, causal, scale)


@_flash_attention.register_fake
def _(
    q_BHTD: Tensor, k_BGSD: Tensor, v_BGSD: Tensor, causal: bool, scale: float
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(q_BHTD), q_BHTD.new_empty(q_BHTD.shape[:3], dtype=torch.float32)


@torch.library.custom_op("gptfast::flash_attention_backward", mutates_args=())
def _flash_attention_backward(
    dout_BHTD: Tensor,
    dlse_BHT: Tensor | None,
    q_BHTD: Tensor,
    k_BGSD: Tensor,
    v_BGSD: Tensor,
    out_BHTD: Tensor,
    lse_BHT: Tensor,
    causal: bool,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    from gptfast.kernels.flash_attention import flash_attention_backward

    return flash_attention_backward(
        dout_BHTD, dlse_BHT, q_BHTD, k_BGSD, v_BGSD, out_BHTD, lse_BHT, causal, scale
    )


@_flash_attention_backward.register_fake
def _(
    dout_BHTD: Tensor,
    dlse_BHT: Tensor | None,
    q_BHTD: Tensor,
    k_BGSD: Tensor,
    v_BGSD: Tensor,
    *_: object,
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(q_BHTD), torch.empty_like(k_BGSD), torch.empty_like(v_BGSD)


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    q_BHTD, k_BGSD, v_BGSD, ctx.causal, ctx.scale = inputs
    ctx.save_for_backward(q_BHTD, k_BGSD, v_BGSD, *output)


def _backward(ctx: Any, dout_BHTD: Tensor, dlse_BHT: Tensor | None) -> tuple[Tensor | None, ...]:
    gradients = _flash_attention_backward(
        dout_BHTD, dlse_BHT, *ctx.saved_tensors, ctx.causal, ctx.scale
    )
    return (*gradients, None, None)


_flash_attention.register_autograd(_backward, setup_context=_save_for_backward)
_flash_attention_backward.register_autograd(no_second_derivative("attention"))


# ---- 3. picking one ------------------------------------------------------------------------------


@overload
def attention(
    q_BHTD: Tensor,
    k_BGSD: Tensor,
    v_BGSD: Tensor,
    *,
    causal: bool = ...,
    scale: float | None = ...,
    dropout_p: float = ...,
    return_lse: Literal[False] = ...,
    backend: str = ...,
) -> Tensor: ...
@overload
def attention(
    q_BHTD: Tensor,
    k_BGSD: Tensor,
    v_BGSD: Tensor,
    *,
    causal: bool = ...,
    scale: float | None = ...,
    dropout_p: float = ...,
    return_lse: Literal[True],
    backend: str = ...,
) -> tuple[Tensor, Tensor]: ...
def attention(
    q_BHTD: Tensor,
    k_BGSD: Tensor,
    v_BGSD: Tensor,
    *,
    causal: bool = True,
    scale: float | None = None,
    dropout_p: float = 0.0,
    return_lse: bool = False,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """Return softmax(q k^T * scale) v ("Attention Is All You Need", Vaswani et al. 2017, eq. 1).

    Args:
        q_BHTD: queries, (B, H, T, D), any floating dtype, any strides.
        k_BGSD: keys, (B, G, S, D), H a multiple of G (grouped-query attention when G < H).
        v_BGSD: values, shaped like the keys.
        causal: query t sees the keys s <= t + S - T: the last query is aligned with the last key,
            as a cache needs it. A query that sees no key (T > S) gets output 0 and log-sum-exp
            -inf.
        scale: what the logits are multiplied by; 1/sqrt(D) if None.
        dropout_p: probability of zeroing an attention weight; pass 0 outside training.
        return_lse: also return the log-sum-exp of the logits, (B, H, T), float32 (float64 for
            float64 inputs); it too can be differentiated.
        backend: "auto" (PyTorch's op, or else on CUDA Triton, or else the reference),
            or "triton", "torch", "reference".

    Returns:
        The output, shaped and typed like q; with `return_lse`, the pair (output, log-sum-exp).

    Raises:
        UserError: the inputs don't fit together, or the backend named can't serve them.
    """
    _check(q_BHTD, k_BGSD, v_BGSD, dropout_p)
    chosen = choose(
        "attention",
        backend,
        q_BHTD.device.type,
        lambda name: why_not(
            name, q_BHTD, k_BGSD, v_BGSD, dropout_p=dropout_p, return_lse=return_lse
        ),
    )
    if chosen == "torch":
        return _attention_torch(q_BHTD, k_BGSD, v_BGSD, causal, _scale(q_BHTD, scale), dropout_p)
    if chosen == "triton":
        out_BHTD, lse_BHT = _flash_attention(q_BHTD, k_BGSD, v_BGSD, causal, _scale(q_BHTD, scale))
        return (out_BHTD, lse_BHT) if return_lse else out_BHTD
    return attention_reference(
        q_BHTD,
        k_BGSD,
        v_BGSD,
        causal=causal,
        scale=scale,
        dropout_p=dropout_p,
        return_lse=return_lse,
    )


def why_not(
    backend: str,
    q_BHTD: Tensor,
    k_BGSD: Tensor,
    v_BGSD: Tensor,
    *,
    dropout_p: float = 0.0,
    return_lse: bool = False,
) -> str | None:
    """Say in one sentence why `backend` can't serve these inputs; None if it can."""
    if backend == "triton":
        if dropout_p > 0:
            return "the kernel has no dropout; set dropout_p=0"
        if q_BHTD.shape[-1] > 256:
            return f"the kernel takes head widths up to 256, not {q_BHTD.shape[-1]}"
        if TRITON_INTERPRETED and q_BHTD.dtype == torch.bfloat16:
            return "Triton's interpreter multiplies bfloat16 matrices wrongly; use float32 there"
        return why_not_triton(q_BHTD)
    if backend == "torch" and return_lse:
        return "F.scaled_dot_product_attention does not return the log-sum-exp"
    return None


def _check(q_BHTD: Tensor, k_BGSD: Tensor, v_BGSD: Tensor, dropout_p: float) -> None:
    shapes = f"q {tuple(q_BHTD.shape)}, k {tuple(k_BGSD.shape)}, v {tuple(v_BGSD.shape)}"
    if not q_BHTD.ndim == k_BGSD.ndim == v_BGSD.ndim == 4 or 0 in (*q_BHTD.shape, *k_BGSD.shape):
        raise UserError(f"attention: expected non-empty (batch, heads, time, head width); {shapes}")
    (B, H, _, D), (B_k, G, _, D_k) = q_BHTD.shape, k_BGSD.shape
    if k_BGSD.shape != v_BGSD.shape or (B_k, D_k) != (B, D) or H % G:
        raise UserError(
            "attention: k and v must have one shape, and q their batch and head width and a "
            f"multiple of their heads; given {shapes}"
        )
    for name, x in (("k", k_BGSD), ("v", v_BGSD)):
        if (x.dtype, x.device) != (q_BHTD.dtype, q_BHTD.device):
            raise UserError(
                f"attention: q is {q_BHTD.dtype} on {q_BHTD.device}, {name} is {x.dtype} on "
                f"{x.device}; move them to one dtype and device with .to()"
            )
    if not q_BHTD.is_floating_point():
        raise UserError(f"attention: q is {q_BHTD.dtype}; expected a floating dtype")
    if not 0 <= dropout_p < 1:
        raise UserError(f"attention: dropout_p is {dropout_p}; expected 0 <= dropout_p < 1")
