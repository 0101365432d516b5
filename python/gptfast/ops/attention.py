"""Scaled dot-product attention: definition, backends and dispatch.

Shape suffixes: B batch, T query time, S key time, H query heads, G key/value heads (H is a
multiple of G; query head h reads key/value head h // (H // G)), D head width. `docs_B2T` holds, for
each token, the first token of its document and the end of the document, int32.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gptfast.errors import UserError, check_bool
from gptfast.ops.attention_weights import keep
from gptfast.ops.blockwise import blockwise_attention
from gptfast.ops.checks import (
    check_cu_seqlens,
    check_qkv,
    check_tensors,
    checked_float,
    checked_scale,
    checked_window,
)
from gptfast.ops.dispatch import (
    TRITON_INTERPRETED,
    autocast,
    choose,
    no_second_derivative,
    why_not_triton,
    without_autocast,
)
from gptfast.ops.operator import operator
from gptfast.ops.philox import dropout_mask
from gptfast.ops.rules import Work, training_and_dtype

# ---- 1. the definition ---------------------------------------------------------------------------


@without_autocast
def attention_reference(
    q_BHTD: Tensor,
    k_BGSD: Tensor,
    v_BGSD: Tensor,
    *,
    causal: bool = True,
    window: int | None = None,
    scale: float | None = None,
    dropout_p: float = 0.0,
    cu_seqlens: Tensor | None = None,
) -> Tensor:
    """Return softmax(q k^T * scale) v in plain PyTorch. `attention` describes the arguments.

    Computes in float32 (float64 inputs stay float64) and holds all B*H*T*S logits at once.
    """
    (B, H, T, _), S = q_BHTD.shape, k_BGSD.shape[2]
    docs_B2T = _documents(cu_seqlens, B, T)
    mask = _mask(T, S, causal, window, docs_B2T, q_BHTD.device)
    weights_BHTS = attention_weights(q_BHTD, k_BGSD, mask, scale)
    keep(weights_BHTS)
    if dropout_p > 0:
        kept_BHTS = dropout_mask(_seed(q_BHTD.device), B, H, T, S, dropout_p)
        weights_BHTS = weights_BHTS * kept_BHTS / (1 - dropout_p)
    return weighted_sum(weights_BHTS, v_BGSD)


def attention_weights(q_BHTD: Tensor, k_BGSD: Tensor, mask: Tensor, scale: float | None) -> Tensor:
    """Return the softmax of q k^T * scale over the unmasked keys, (B, H, T, S)."""
    compute_dtype = torch.promote_types(q_BHTD.dtype, torch.float32)
    k_BHSD = k_BGSD.to(compute_dtype).repeat_interleave(q_BHTD.shape[1] // k_BGSD.shape[1], dim=1)
    logits_BHTS = (q_BHTD.to(compute_dtype) @ k_BHSD.mT) * scale_or_default(q_BHTD, scale)
    # Mask with the lowest finite number, and zero the weights after the softmax. With -inf, a query
    # that sees no key would compute 0/0, here and in the gradient.
    lowest = torch.finfo(compute_dtype).min
    return logits_BHTS.masked_fill(mask, lowest).softmax(-1).masked_fill(mask, 0)


def weighted_sum(weights_BHTS: Tensor, v_BGSD: Tensor) -> Tensor:
    """Return weights @ v, typed like v."""
    group = weights_BHTS.shape[1] // v_BGSD.shape[1]
    v_BHSD = v_BGSD.to(weights_BHTS.dtype).repeat_interleave(group, dim=1)
    return (weights_BHTS @ v_BHSD).to(v_BGSD.dtype)


def _mask(
    T: int,
    S: int,
    causal: bool,
    window: int | None,
    docs_B2T: Tensor | None,
    device: torch.device,
) -> Tensor:
    """Return the mask, True where query t does not see key s: (T, S), or (B, 1, T, S).

    The last query is aligned with the last key, so that the T newest tokens see a cache of S.
    """
    ahead_TS = torch.arange(S, device=device) - torch.arange(S - T, S, device=device)[:, None]
    mask = ahead_TS > 0 if causal else torch.zeros_like(ahead_TS, dtype=torch.bool)
    if window is not None:
        mask = mask | (ahead_TS.abs() >= window)
    if docs_B2T is not None:
        first_BT = docs_B2T[:, 0]
        mask = mask | (first_BT[:, None, :, None] != first_BT[:, None, None, :])
    return mask


def _documents(cu_seqlens: Tensor | None, B: int, T: int) -> Tensor | None:
    """Return docs_B2T. A document does not continue into the next row of the batch."""
    if cu_seqlens is None:
        return None
    row_starts_B1 = torch.arange(0, B * T, T, device=cu_seqlens.device)[:, None]
    tokens_BT = row_starts_B1 + torch.arange(T, device=cu_seqlens.device)
    document_BT = torch.searchsorted(cu_seqlens, tokens_BT, right=True)
    first_BT = cu_seqlens[document_BT - 1] - row_starts_B1
    end_BT = cu_seqlens[document_BT] - row_starts_B1
    return torch.stack((first_BT, end_BT), 1).clamp(0, T).int()


def scale_or_default(q_BHTD: Tensor, scale: float | None) -> float:
    """Return the factor of the logits: `scale`, or 1/sqrt(D) if it is None."""
    return int(q_BHTD.shape[-1]) ** -0.5 if scale is None else scale


def positively_scaled(q_BHTD: Tensor, scale: float | None) -> tuple[Tensor, float]:
    """Return queries and a positive scale that give the same logits.

    Fused kernels may scale after they mask, where a negative or zero scale makes NaN of -inf, or
    scale the largest product of a row and take it for the largest logit.
    """
    scale = scale_or_default(q_BHTD, scale)
    if abs(scale) < torch.finfo(torch.float32).tiny:  # 0 in float32
        return q_BHTD * 0, 1.0
    return (-q_BHTD, -scale) if scale < 0 else (q_BHTD, scale)


def _seed(device: torch.device) -> Tensor:
    """Draw a seed for dropout, (1,) int64, from the device's default generator."""
    return torch.randint(-(2**63), 2**63 - 1, (1,), device=device)


# ---- 2. the backends -----------------------------------------------------------------------------


def _attention_torch(
    q_BHTD: Tensor,
    k_BGSD: Tensor,
    v_BGSD: Tensor,
    docs_B2T: Tensor | None,
    causal: bool,
    scale: float,
    window: int | None,
    dropout_p: float,
) -> Tensor:
    """Return attention by PyTorch's fused op.

    `is_causal` of that op aligns the first query with the first key, so it only serves T = S. With
    dropout on the CPU the op is not fused, so the common cases use `blockwise_attention`.
    """
    T, S = q_BHTD.shape[2], k_BGSD.shape[2]
    unseeing = max(T - S, 0) if causal else 0  # the first queries, which see no key
    is_square = bool(T - unseeing == S)  # torch.jit.trace makes sizes tensors
    is_bounded = window is not None or docs_B2T is not None
    if dropout_p > 0 and q_BHTD.device.type == "cpu" and not is_bounded and not unseeing:
        seed = _seed(q_BHTD.device)
        return blockwise_attention(q_BHTD, k_BGSD, v_BGSD, causal, scale, dropout_p, seed)
    # A single query is the newest token, which sees every key.
    needs_mask = is_bounded or (causal and not is_square and T > 1)
    mask = _mask(T, S, causal, window, docs_B2T, q_BHTD.device) if needs_mask else None
    out_BHTD = F.scaled_dot_product_attention(
        q_BHTD[:, :, unseeing:],
        k_BGSD,
        v_BGSD,
        attn_mask=None if mask is None else ~mask[..., unseeing:, :],
        is_causal=causal and is_square and mask is None,
        scale=scale,
        dropout_p=dropout_p,
        enable_gqa=bool(q_BHTD.shape[1] != k_BGSD.shape[1]),
    )
    return F.pad(out_BHTD, (0, 0, unseeing, 0)) if unseeing else out_BHTD


# "triton" is a pair of operators that torch.compile keeps whole. Their kernels are imported on the
# first call, so that this module works without Triton. `lse2_BHT` is the log-sum-exp / log 2.


@operator("flash_attention")
def _flash_attention(
    q_BHTD: Tensor,
    k_BGSD: Tensor,
    v_BGSD: Tensor,
    docs_B2T: Tensor | None,
    seed: Tensor | None,
    causal: bool,
    scale: float,
    window: int | None,
    dropout_p: float,
) -> tuple[Tensor, Tensor]:
    from gptfast.kernels.flash_attention import flash_attention_forward

    return flash_attention_forward(
        q_BHTD, k_BGSD, v_BGSD, docs_B2T, seed, causal, scale, window, dropout_p
    )


@_flash_attention.register_fake
def _(q_BHTD: Tensor, *_: object) -> tuple[Tensor, Tensor]:
    return torch.empty_like(q_BHTD), q_BHTD.new_empty(q_BHTD.shape[:3], dtype=torch.float32)


@operator("flash_attention_backward")
def _flash_attention_backward(
    dout_BHTD: Tensor,
    q_BHTD: Tensor,
    k_BGSD: Tensor,
    v_BGSD: Tensor,
    docs_B2T: Tensor | None,
    seed: Tensor | None,
    out_BHTD: Tensor,
    lse2_BHT: Tensor,
    causal: bool,
    scale: float,
    window: int | None,
    dropout_p: float,
) -> tuple[Tensor, Tensor, Tensor]:
    from gptfast.kernels.flash_attention import flash_attention_backward

    return flash_attention_backward(
        dout_BHTD, q_BHTD, k_BGSD, v_BGSD, docs_B2T, seed, out_BHTD, lse2_BHT,
        causal, scale, window, dropout_p,
    )  # fmt: skip


@_flash_attention_backward.register_fake
def _(
    dout_BHTD: Tensor,
    q_BHTD: Tensor,
    k_BGSD: Tensor,
    v_BGSD: Tensor,
    *_: object,
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(q_BHTD), torch.empty_like(k_BGSD), torch.empty_like(v_BGSD)


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    tensors, ctx.options = inputs[:5], inputs[5:]
    ctx.save_for_backward(*tensors, *output)
    ctx.set_materialize_grads(False)  # no zeros for the log-sum-exp, which only backward reads


def _backward(ctx: Any, dout_BHTD: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
    if dout_BHTD is None:
        return (None,) * 9
    gradients = _flash_attention_backward(dout_BHTD, *ctx.saved_tensors, *ctx.options)
    return (*gradients, *[None] * 6)


_flash_attention.register_autograd(_backward, setup_context=_save_for_backward)
_flash_attention_backward.register_autograd(no_second_derivative("attention"))


# ---- 3. the dispatch -----------------------------------------------------------------------------


def attention(
    q_BHTD: Tensor,
    k_BGSD: Tensor,
    v_BGSD: Tensor,
    *,
    causal: bool = True,
    window: int | None = None,
    scale: float | None = None,
    dropout_p: float = 0.0,
    cu_seqlens: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """Return softmax(q k^T * scale) v ("Attention Is All You Need", Vaswani et al. 2017, eq. 1).

    Args:
        q_BHTD: queries, (B, H, T, D), any floating dtype, any strides.
        k_BGSD: keys, (B, G, S, D). H is a multiple of G (grouped-query attention if G < H).
        v_BGSD: values, shaped like the keys.
        causal: let query t see only the keys s <= t + S - T. The last query is aligned with the
            last key, as a cache requires. A query that sees no key (T > S) gets output 0.
        window: a query sees only keys at a distance below `window`; with `causal`, these are the
            `window` newest ("Longformer", Beltagy et al. 2020; as in Mistral 7B). None means all.
        scale: factor of the logits, a number of any sign. None means 1/sqrt(D). A tensor is
            refused: it would get no gradient. Multiply the queries by it instead.
        dropout_p: probability of zeroing an attention weight. Pass 0 outside training. "triton"
            and "reference" zero the same weights after the same `torch.manual_seed`.
        cu_seqlens: cumulative lengths of packed documents, (N + 1,) int32 or int64, from 0 to
            B * T, over the rows of the batch laid end to end. A query sees only keys of its own
            document. Requires T = S.
        backend: "auto", "triton", "torch" or "reference". None means the process's default, see
            `set_backend`. On CUDA, "auto" chooses the fastest backend by measurement
            (gptfast.ops.rules); on other devices it chooses PyTorch's op. If its choice can't
            serve, "auto" takes the next backend and logs this once.

    Returns:
        The output, shaped and typed like q, or in the autocast dtype under autocast, as from
        PyTorch's op.

    Raises:
        UserError: the inputs don't match, or the given backend can't serve them.
    """
    check_tensors("attention", q=q_BHTD, k=k_BGSD, v=v_BGSD)
    q_BHTD, k_BGSD, v_BGSD = autocast(q_BHTD, k_BGSD, v_BGSD)
    check_qkv("attention", q_BHTD, k_BGSD, v_BGSD)
    check_bool("attention: causal", causal)
    window = checked_window("attention", window)
    scale = checked_scale("attention", scale)
    dropout_p = checked_float("attention", "dropout_p", dropout_p)
    _check_options(q_BHTD, k_BGSD, dropout_p, cu_seqlens)
    chosen = choose(
        work(q_BHTD, k_BGSD, v_BGSD, window is not None or cu_seqlens is not None, dropout_p),
        backend,
        q_BHTD.device,
        lambda name: why_not(name, q_BHTD),
    )
    if chosen == "reference":
        return attention_reference(
            q_BHTD,
            k_BGSD,
            v_BGSD,
            causal=causal,
            window=window,
            scale=scale,
            dropout_p=dropout_p,
            cu_seqlens=cu_seqlens,
        )
    q_BHTD, scale = positively_scaled(q_BHTD, scale)
    docs_B2T = _documents(cu_seqlens, q_BHTD.shape[0], q_BHTD.shape[2])
    if chosen == "torch":
        return _attention_torch(q_BHTD, k_BGSD, v_BGSD, docs_B2T, causal, scale, window, dropout_p)
    seed = _seed(q_BHTD.device) if dropout_p > 0 else None
    out_BHTD: Tensor = _flash_attention(
        q_BHTD, k_BGSD, v_BGSD, docs_B2T, seed, causal, scale, window, dropout_p
    )[0]
    return out_BHTD


def why_not(backend: str, q_BHTD: Tensor) -> str | None:
    """Return the reason why `backend` can't serve these inputs, or None if it can."""
    return why_not_triton_heads(q_BHTD) if backend == "triton" else None


def work(
    q_BHTD: Tensor, k_BGSD: Tensor, v_BGSD: Tensor, is_bounded: bool, dropout_p: float
) -> Work:
    """Return the `Work` of a call, for the rules. Windows and documents make it bounded."""
    kind = f"{training_and_dtype(q_BHTD, k_BGSD, v_BGSD)}, {width(q_BHTD)}"
    kind += ", bounded" if is_bounded else ""
    kind += ", dropout" if dropout_p > 0 else ""
    # A few new tokens against a cache. Rules measure as many queries as keys, so none applies.
    kind += ", few queries" if 4 * q_BHTD.shape[2] <= k_BGSD.shape[2] else ""
    return Work("attention", kind, k_BGSD.shape[2])


def width(q_BHTD: Tensor) -> str:
    """Return the head width as rules name it, rounded up to the next measured width."""
    D = q_BHTD.shape[-1]
    return f"width {64 if D <= 64 else 128 if D <= 128 else 256}"


def why_not_triton_heads(q_BHTD: Tensor) -> str | None:
    """Return the reason why the attention kernels can't serve these queries, or None."""
    if q_BHTD.shape[-1] > 256:
        return f"the kernel takes head widths up to 256, not {q_BHTD.shape[-1]}"
    if TRITON_INTERPRETED and q_BHTD.dtype == torch.bfloat16:
        return "Triton's interpreter multiplies bfloat16 matrices incorrectly; use float32"
    return why_not_triton(q_BHTD)


def _check_options(
    q_BHTD: Tensor,
    k_BGSD: Tensor,
    dropout_p: float,
    cu_seqlens: Tensor | None,
) -> None:
    if not 0 <= dropout_p < 1:
        raise UserError(f"attention: dropout_p is {dropout_p}; expected 0 <= dropout_p < 1")
    if cu_seqlens is None:
        return
    (B, _, T, _), S = q_BHTD.shape, k_BGSD.shape[2]
    if T != S:
        raise UserError(
            f"attention: cu_seqlens is given with {S} keys and {T} queries; expected as many keys "
            "as queries"
        )
    check_cu_seqlens("attention", cu_seqlens, B * T, q_BHTD.device)
