"""Attention with dropout on the CPU, block by block, in plain PyTorch.

With dropout, `F.scaled_dot_product_attention` leaves its fused path on the CPU: it holds all logits
and draws at least 32 random bits for each. Here the logits of a block stay in the processor's
cache, blocks hidden by the causal mask are skipped, and 16 random bits decide each weight. The
backward pass recomputes the weights of a block and draws the same random numbers again.

Shape suffixes: N heads of all batch entries, n heads of one block; T queries, t queries of one
block; S keys, of which the queries of a block see the first s; D head width.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from gptfast.ops.dispatch import no_second_derivative, without_autocast
from gptfast.ops.dropout import draw_kept, kept_scale
from gptfast.ops.operator import operator

_BLOCK_ROWS = 64
_BLOCK_LOGITS = 2**18  # 1 MB, the fastest on 2 cores with 512 kB of cache each


@without_autocast
def blockwise_attention(
    q_BHTD: Tensor,
    k_BGSD: Tensor,
    v_BGSD: Tensor,
    causal: bool,
    scale: float,
    dropout_p: float,
    seed: Tensor,
) -> Tensor:
    """Return the same as `attention_reference`, except that dropout uses another generator.

    Requires T <= S if causal. `dropout_p` is rounded to a multiple of 2^-16. `seed` is (1,) int64.
    """
    B, H, T, D = q_BHTD.shape
    group = H // k_BGSD.shape[1]
    k_BHSD, v_BHSD = (x.repeat_interleave(group, 1) for x in (k_BGSD, v_BGSD))
    compute_dtype = torch.promote_types(q_BHTD.dtype, torch.float32)
    tensors_NTD = (x.reshape(B * H, -1, D).to(compute_dtype) for x in (q_BHTD, k_BHSD, v_BHSD))
    out_NTD: Tensor = _blockwise(*tensors_NTD, seed, causal, scale, dropout_p)
    return out_NTD.view(B, H, T, D).to(q_BHTD.dtype)


class _Blocks:
    """The blocks of one call, their attention weights and their dropout masks."""

    def __init__(
        self,
        q_NTD: Tensor,
        k_NSD: Tensor,
        seed: Tensor,
        causal: bool,
        scale: float,
        dropout_p: float,
    ) -> None:
        self.q_NTD, self.k_NSD, self.causal, self.scale = q_NTD, k_NSD, causal, scale
        self.generator = torch.Generator().manual_seed(int(seed))
        self.dropout_p, self.kept_scale = dropout_p, kept_scale(dropout_p)

    def __iter__(self) -> Iterator[tuple[slice, slice, slice]]:
        """Yield the heads, the queries and the visible keys of each block."""
        (N, T, _), S = self.q_NTD.shape, self.k_NSD.shape[1]
        n = max(_BLOCK_LOGITS // (min(_BLOCK_ROWS, T) * S), 1)
        for head in range(0, N, n):
            for row in range(0, T, _BLOCK_ROWS):
                end = min(row + _BLOCK_ROWS, T)
                seen = end + S - T if self.causal else S
                yield slice(head, head + n), slice(row, end), slice(0, seen)

    def weights(self, heads: slice, rows: slice, keys: slice) -> Tensor:
        """Return the softmax of a block's logits, (n, t, s)."""
        logits_nts = self.q_NTD[heads, rows] @ self.k_NSD[heads, keys].mT
        logits_nts *= self.scale
        if self.causal:  # the diagonal is in the last t keys of the block
            t = rows.stop - rows.start
            mask_tt = torch.ones(t, t, dtype=torch.bool).triu_(1)
            logits_nts[:, :, -t:].masked_fill_(mask_tt, float("-inf"))
        return logits_nts.softmax(-1)

    def kept(self, weights_nts: Tensor) -> Tensor:
        """Draw the dropout mask of the next weights, True where a weight is kept."""
        return draw_kept(weights_nts.shape, self.dropout_p, self.generator)


@operator("blockwise_attention")
def _blockwise(
    q_NTD: Tensor,
    k_NSD: Tensor,
    v_NSD: Tensor,
    seed: Tensor,
    causal: bool,
    scale: float,
    dropout_p: float,
) -> Tensor:
    blocks = _Blocks(q_NTD, k_NSD, seed, causal, scale, dropout_p)
    out_NTD = torch.empty_like(q_NTD, memory_format=torch.contiguous_format)
    for heads, rows, keys in blocks:
        weights_nts = blocks.weights(heads, rows, keys)
        weights_nts *= blocks.kept(weights_nts)
        torch.mul(weights_nts @ v_NSD[heads, keys], blocks.kept_scale, out=out_NTD[heads, rows])
    return out_NTD


@_blockwise.register_fake
def _(q_NTD: Tensor, *_: object) -> Tensor:
    return torch.empty_like(q_NTD, memory_format=torch.contiguous_format)


@operator("blockwise_attention_backward")
@without_autocast
def _blockwise_backward(
    dout_NTD: Tensor,
    q_NTD: Tensor,
    k_NSD: Tensor,
    v_NSD: Tensor,
    seed: Tensor,
    causal: bool,
    scale: float,
    dropout_p: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Apply the formulas of kernels/README.md; PyTorch computes the gradient of the softmax."""
    blocks = _Blocks(q_NTD, k_NSD, seed, causal, scale, dropout_p)
    dq_NTD = torch.empty_like(q_NTD, memory_format=torch.contiguous_format)
    dk_NSD, dv_NSD = (
        torch.zeros_like(x, memory_format=torch.contiguous_format) for x in (k_NSD, v_NSD)
    )
    for heads, rows, keys in blocks:
        weights_nts = blocks.weights(heads, rows, keys)
        kept_nts = blocks.kept(weights_nts)
        dout_ntD = dout_NTD[heads, rows] * blocks.kept_scale
        dv_NSD[heads, keys].baddbmm_((weights_nts * kept_nts).mT, dout_ntD)
        dweights_nts = dout_ntD @ v_NSD[heads, keys].mT
        dweights_nts *= kept_nts
        dlogits_nts = torch.ops.aten._softmax_backward_data(
            dweights_nts, weights_nts, -1, weights_nts.dtype
        )
        torch.mul(dlogits_nts @ k_NSD[heads, keys], scale, out=dq_NTD[heads, rows])
        dk_NSD[heads, keys].baddbmm_(dlogits_nts.mT, q_NTD[heads, rows], alpha=scale)
    return dq_NTD, dk_NSD, dv_NSD


@_blockwise_backward.register_fake
def _(
    dout_NTD: Tensor, q_NTD: Tensor, k_NSD: Tensor, v_NSD: Tensor, *_: object
) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = (
        torch.empty_like(x, memory_format=torch.contiguous_format) for x in (q_NTD, k_NSD, v_NSD)
    )
    return q, k, v


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    tensors, ctx.options = inputs[:4], inputs[4:]
    ctx.save_for_backward(*tensors)


def _backward(ctx: Any, dout_NTD: Tensor) -> tuple[Tensor | None, ...]:
    gradients = _blockwise_backward(dout_NTD, *ctx.saved_tensors, *ctx.options)
    return (*gradients, None, None, None, None)


_blockwise.register_autograd(_backward, setup_context=_save_for_backward)
_blockwise_backward.register_autograd(no_second_derivative("attention"))
