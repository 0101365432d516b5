# mypy: ignore-errors
"""Attention of a few queries to a long key cache, in Triton, with the keys split into parts.

One program per head, as in flash_attention.py, would leave most of a GPU idle while a few programs
loop over all keys. Here, many programs each process one part of a head's keys ("Flash-Decoding for
long-context inference", Dao et al. 2023), and a second kernel combines the parts, as derived in
README.md in this folder. The tests compare the kernels with `decode_attention_reference` in
ops/decode_attention.py.

Shape suffixes as in flash_attention.py, and R: the rows of one key head, which are the T queries of
each of its GROUP query heads; P parts of the keys.
"""

import torch
import triton
import triton.language as tl

from gptfast.kernels.flash_attention import (
    LOWEST,
    _dot,
    _head,
    _load,
    _logits,
    _softmax_end,
    _softmax_step,
)


@triton.jit
def _part_kernel(
    q, q_strides, k, k_strides, v, v_strides, lengths, out_parts, lse2_parts,
    scale, window, H, T, S, KEYS_PER_PART,
    GROUP: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """Attend with all rows of one key head to one part of the keys."""
    part, n_parts = tl.program_id(0), tl.num_programs(0)
    G = H // GROUP
    batch, kv_head = tl.program_id(1) // G, tl.program_id(1) % G
    k = _head(k, k_strides, batch, kv_head)
    v = _head(v, v_strides, batch, kv_head)
    length = S
    if lengths is not None:
        length = tl.minimum(tl.load(lengths + batch), S).to(tl.int32)

    rows_R = tl.arange(0, BLOCK_R)
    heads_R, queries_R = kv_head * GROUP + rows_R // T, rows_R % T
    is_row_R = rows_R < GROUP * T
    columns = tl.arange(0, BLOCK_D)
    offsets_R = heads_R.to(tl.int64) * q_strides[1] + queries_R.to(tl.int64) * q_strides[2]
    q += batch.to(tl.int64) * q_strides[0]
    q_RD = tl.load(
        q + offsets_R[:, None] + columns.to(tl.int64)[None, :] * q_strides[3],
        mask=is_row_R[:, None] & (columns < D)[None, :],
        other=0.0,
    )

    newest_R = length - T + queries_R  # the last query is aligned with the last key
    max_R = tl.full([BLOCK_R], LOWEST, tl.float32)
    sum_R = tl.zeros([BLOCK_R], tl.float32)
    acc_RD = tl.zeros([BLOCK_R, BLOCK_D], tl.float32)
    start = part * KEYS_PER_PART
    end = tl.minimum(start + KEYS_PER_PART, length)
    if window is not None:  # skip keys before all windows
        start = tl.maximum(start, (length - T - window + 1) // BLOCK_S * BLOCK_S)
    for first_key in range(start, end, BLOCK_S):
        keys_S = first_key + tl.arange(0, BLOCK_S)
        k_SD = _load(k, k_strides, keys_S, length, D, BLOCK_D)
        logits_RS = _logits(q_RD, k_SD, scale)
        visible_RS = keys_S[None, :] <= newest_R[:, None]
        if window is not None:
            visible_RS = visible_RS & (keys_S[None, :] > newest_R[:, None] - window)
        logits_RS = tl.where(visible_RS, logits_RS, float("-inf"))
        max_R, sum_R, shrink_R, p_RS = _softmax_step(max_R, sum_R, logits_RS, 1.0)
        v_SD = _load(v, v_strides, keys_S, length, D, BLOCK_D)
        acc_RD = acc_RD * shrink_R[:, None] + _dot(p_RS.to(v_SD.dtype), v_SD)

    out_RD, lse2_R = _softmax_end(max_R, sum_R, acc_RD)
    # The parts of a row are adjacent: (B, H, T, P, D) and (B, H, T, P).
    at_R = ((batch * H + heads_R).to(tl.int64) * T + queries_R) * n_parts + part
    tl.store(lse2_parts + at_R, lse2_R, mask=is_row_R)
    tl.store(
        out_parts + at_R[:, None] * D + columns[None, :],
        out_RD,
        mask=is_row_R[:, None] & (columns < D)[None, :],
    )


@triton.jit
def _combine_kernel(
    out_parts, lse2_parts, out, P, D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_P: tl.constexpr
):
    """Combine the parts of one row, weighted by their sums of e^logit."""
    row = tl.program_id(0).to(tl.int64)
    columns, parts = tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_P)
    lse2_P = tl.load(lse2_parts + row * P + parts, mask=parts < P, other=float("-inf"))
    largest = tl.maximum(tl.max(lse2_P, 0), LOWEST)
    weights_P = tl.exp2(lse2_P - largest)
    total = tl.sum(weights_P, 0)
    out_PD = tl.load(
        out_parts + (row * P + parts)[:, None] * D + columns[None, :],
        mask=(parts < P)[:, None] & (columns < D)[None, :],
        other=0.0,
    )
    out_D = tl.sum(out_PD * weights_P[:, None], 0) / tl.where(total == 0, 1.0, total)
    tl.store(out + row * D + columns, out_D.to(out.dtype.element_ty), mask=columns < D)


BLOCK_S = 128
# The maximum number of parts, and of programs of the first kernel unless there are more heads: a
# few programs for each multiprocessor of a large GPU.
MAX_PARTS, MAX_PROGRAMS = 64, 512


def decode_attention(
    q_BHTD: torch.Tensor,
    k_BGSD: torch.Tensor,
    v_BGSD: torch.Tensor,
    lengths_B: torch.Tensor | None,
    scale: float,
    window: int | None,
) -> torch.Tensor:
    """Return the output, contiguous and typed like q.

    The tensors are float32, float16 or bfloat16, with any strides and D up to 256. lengths_B is the
    number of keys of each batch entry, a contiguous integer tensor. Nothing is checked.
    """
    (B, H, T, D), (G, S) = q_BHTD.shape, k_BGSD.shape[1:3]
    n_blocks = triton.cdiv(S, BLOCK_S)
    n_parts = min(n_blocks, MAX_PARTS, max(MAX_PROGRAMS // (B * G), 1))
    blocks_per_part = triton.cdiv(n_blocks, n_parts)
    n_parts = triton.cdiv(n_blocks, blocks_per_part)
    block_D = max(triton.next_power_of_2(D), 16)  # tl.dot requires at least 16
    wide = {"device": q_BHTD.device, "dtype": torch.float32}
    out_parts = torch.empty(B, H, T, n_parts, D, **wide)
    lse2_parts = torch.empty(B, H, T, n_parts, **wide)
    out_BHTD = torch.empty(B, H, T, D, device=q_BHTD.device, dtype=q_BHTD.dtype)
    with torch.cuda.device_of(q_BHTD):
        _part_kernel[(n_parts, B * G)](
            q_BHTD, q_BHTD.stride(), k_BGSD, k_BGSD.stride(), v_BGSD, v_BGSD.stride(), lengths_B,
            out_parts, lse2_parts, scale, window, H, T, S, blocks_per_part * BLOCK_S,
            GROUP=H // G, D=D, BLOCK_D=block_D,
            BLOCK_R=max(triton.next_power_of_2(H // G * T), 16),
            # At most 16 KiB of keys at a time.
            BLOCK_S=min(BLOCK_S, 2**14 // (block_D * q_BHTD.element_size())),
            num_warps=4, num_stages=2, enable_fp_fusion=True,
        )  # fmt: skip
        _combine_kernel[(B * H * T,)](
            out_parts, lse2_parts, out_BHTD, n_parts, D=D, BLOCK_D=block_D,
            BLOCK_P=triton.next_power_of_2(n_parts), num_warps=4, enable_fp_fusion=True,
        )  # fmt: skip
    return out_BHTD
