# mypy: ignore-errors
"""FlashAttention in Triton: forward and backward, without ever holding the T x S logits.

"FlashAttention-2: Faster Attention with Better Parallelism and Work Partitioning", Dao 2023,
https://arxiv.org/abs/2307.08691. README.md in this folder derives every computation. The tests
compare these kernels with `attention_reference` in ops/attention.py.

Shape suffixes: B batch, T query rows, S key rows, H query heads, G key/value heads, D head width.
Inside a kernel a suffix is one tile: `q_TD` is (BLOCK_T, BLOCK_D), BLOCK_D the next power of two.
Tensors are passed as pointers with strides. If the GPU's copy engine (TMA) loads whole tiles, they
are passed as tensor descriptors, with None in place of the strides.

Logits are in units of log2, because exp2 is one instruction and the scale absorbs log2(e). Their
log-sum-exp `lse2` has the same units: conversion would round it too coarsely for logits in the
thousands.
"""

import functools
import math

import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

LOG2_E = tl.constexpr(math.log2(math.e))
# The initial running maximum. Finite, so that exp2(-inf - maximum) is 0 and never NaN.
LOWEST = tl.constexpr(torch.finfo(torch.float32).min)

# ---- shared by the kernels -----------------------------------------------------------------------


@triton.jit
def _program(T, H, BLOCK_T: tl.constexpr):
    """Return the block of rows, the head and the batch entry of this program.

    The block index varies fastest, so that concurrent programs share a head's tensors in the L2
    cache.
    """
    n_blocks = tl.cdiv(T, BLOCK_T)
    pair = tl.program_id(0) // n_blocks
    return tl.program_id(0) % n_blocks, pair % H, pair // H


@triton.jit
def _head(tensor, strides, batch, head):
    """Return the address of tensor[batch, head], in 64 bits: tensors may exceed 2^31 elements."""
    return tensor + batch.to(tl.int64) * strides[0] + head.to(tl.int64) * strides[1]


@triton.jit
def _addresses(matrix, strides, rows, columns):
    row_offsets = rows.to(tl.int64)[:, None] * strides[2]
    return matrix + row_offsets + columns.to(tl.int64)[None, :] * strides[3]


@triton.jit
def _load(matrix, strides, rows, n_rows, D: tl.constexpr, BLOCK_D: tl.constexpr):
    """Load (len(rows), BLOCK_D), with zeros past the last row and the last column."""
    columns = tl.arange(0, BLOCK_D)
    inside = (rows < n_rows)[:, None] & (columns < D)[None, :]
    return tl.load(_addresses(matrix, strides, rows, columns), mask=inside, other=0.0)


@triton.jit
def _tile(
    x, strides, batch, head, first_row, n_rows,
    D: tl.constexpr, BLOCK: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Load (BLOCK, BLOCK_D) of x[batch, head], with zeros past the last row and the last column."""
    if strides is None:
        return x.load([batch, head, first_row, 0]).reshape(BLOCK, BLOCK_D)
    else:
        rows = first_row + tl.arange(0, BLOCK)
        return _load(_head(x, strides, batch, head), strides, rows, n_rows, D, BLOCK_D)


@triton.jit
def _store(matrix, strides, rows, n_rows, values, D: tl.constexpr, BLOCK_D: tl.constexpr):
    columns = tl.arange(0, BLOCK_D)
    inside = (rows < n_rows)[:, None] & (columns < D)[None, :]
    values = values.to(matrix.dtype.element_ty)
    tl.store(_addresses(matrix, strides, rows, columns), values, mask=inside)


@triton.jit
def _keys_seen(queries, docs, T, S, window, CAUSAL: tl.constexpr):
    """Return the keys [low, high) that a query sees. Both bounds never decrease with the query."""
    newest = queries + (S - T)  # the last query is aligned with the last key
    low = queries * 0
    high = queries * 0 + S
    if CAUSAL:
        high = tl.minimum(high, newest + 1)
    if window is not None:
        low = tl.maximum(low, newest - window + 1)
        if not CAUSAL:
            high = tl.minimum(high, newest + window)
    if docs is not None:
        low = tl.maximum(low, tl.load(docs + queries, mask=queries < T, other=0))
        high = tl.minimum(high, tl.load(docs + T + queries, mask=queries < T, other=0))
    return low, tl.maximum(high, 0)


@triton.jit
def _keys_seen_by_ends(first_row, docs, T, S, window, CAUSAL: tl.constexpr, BLOCK_T: tl.constexpr):
    """Return `_keys_seen` of the first and of the last query of a block."""
    low_first, high_first = _keys_seen(first_row, docs, T, S, window, CAUSAL)
    last_row = tl.minimum(first_row + BLOCK_T, T) - 1
    low_last, high_last = _keys_seen(last_row, docs, T, S, window, CAUSAL)
    return low_first, high_first, low_last, high_last


@triton.jit
def _visible(rows_T, first_key, docs, T, S, window, CAUSAL: tl.constexpr, BLOCK_S: tl.constexpr):
    """Return the mask of the keys of a block that each row sees, (BLOCK_T, BLOCK_S).

    The bounds are recomputed here, so that they take no registers elsewhere.
    """
    low_T, high_T = _keys_seen(rows_T, docs, T, S, window, CAUSAL)
    keys_S = first_key + tl.arange(0, BLOCK_S)
    return (keys_S >= low_T[:, None]) & (keys_S < high_T[:, None])


@triton.jit
def _queries_seeing(keys, docs, T, S, window, CAUSAL: tl.constexpr):
    """Return the queries [low, high) that see a key, the converse of `_keys_seen`."""
    oldest = keys - (S - T)
    low = keys * 0
    high = keys * 0 + T
    if CAUSAL:
        low = tl.maximum(low, oldest)
    if window is not None:
        high = tl.minimum(high, oldest + window)
        if not CAUSAL:
            low = tl.maximum(low, oldest - window + 1)
    if docs is not None:  # a document's queries are its keys
        low = tl.maximum(low, tl.load(docs + keys, mask=keys < S, other=0))
        high = tl.minimum(high, tl.load(docs + S + keys, mask=keys < S, other=0))
    return low, tl.maximum(high, 0)


@triton.jit
def _phase(PHASE: tl.constexpr, low_first, high_first, low_last, high_last, BLOCK: tl.constexpr):
    """Return the range of a loop over blocks, from the bounds of the first and the last row.

    Phase 1 has the blocks that all rows see completely, which need no mask. Phase 0 has the blocks
    before these, and phase 2 the blocks after these. All blocks start at multiples of BLOCK.
    """
    start = low_first // BLOCK * BLOCK
    full = tl.cdiv(low_last, BLOCK) * BLOCK
    full_end = tl.maximum(high_first // BLOCK * BLOCK, full)
    if PHASE == 0:
        return start, tl.minimum(full, high_last)
    elif PHASE == 1:
        return full, full_end
    else:
        return full_end, high_last


@triton.jit
def _logits(a, b, scale):
    """Return a b^T, scaled, in units of log2."""
    return _dot(a, tl.trans(b)) * (scale * LOG2_E)


@triton.jit
def _dropped_out(
    p_TS, seed, head, rows_T, first_key, dropout_p, BLOCK_T: tl.constexpr, BLOCK_S: tl.constexpr
):
    """Return p after dropout, with the mask that `dropout_mask` in ops/philox.py defines.

    One call of the generator returns four numbers, for four adjacent keys.
    """
    zeros = tl.zeros([BLOCK_T, BLOCK_S // 4], tl.int32)
    quads = zeros + (first_key // 4 + tl.arange(0, BLOCK_S // 4))[None, :]
    r0, r1, r2, r3 = tl.philox(seed, quads, zeros + rows_T[:, None], zeros + head, zeros)
    bits_TS = tl.reshape(tl.join(tl.join(r0, r2), tl.join(r1, r3)), [BLOCK_T, BLOCK_S])
    uniform_TS = (bits_TS >> 8).to(tl.float32) * 2.0**-24
    return tl.where(uniform_TS >= dropout_p, p_TS / (1 - dropout_p), 0.0)


@triton.jit
def _dot(a, b):
    # "ieee" affects only float32, for which the default is TF32 with 10 bits of mantissa.
    return tl.dot(a, b, input_precision="ieee")


@triton.jit
def _softmax_step(max_T, sum_T, logits_TS, factor):
    """Add logits to the online softmax; return the maximum, the sum, the shrink factor and p.

    The shrink factor rescales the previous sums. The logits are multiplied by `factor`, which is
    at least 0.
    """
    new_max_T = tl.maximum(max_T, tl.max(logits_TS, 1) * factor)
    p_TS = tl.exp2(logits_TS * factor - new_max_T[:, None])
    shrink_T = tl.exp2(max_T - new_max_T)
    return new_max_T, sum_T * shrink_T + tl.sum(p_TS, 1), shrink_T, p_TS


@triton.jit
def _softmax_end(max_T, sum_T, acc_TD):
    """Return the output and the log-sum-exp in units of log2; 0 and -inf if no key was seen."""
    saw_none_T = sum_T == 0
    sum_T = tl.where(saw_none_T, 1.0, sum_T)
    lse2_T = tl.where(saw_none_T, float("-inf"), max_T + tl.log2(sum_T))
    return acc_TD / sum_T[:, None], lse2_T


# ---- forward -------------------------------------------------------------------------------------


@triton.jit
def _forward_kernel(
    q, q_strides, k, k_strides, v, v_strides, out, out_strides, lse2, docs, seed,
    scale, window, dropout_p, H, GROUP, T, S,
    CAUSAL: tl.constexpr, FIRST_PHASE: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """Attend with one block of queries of one head to all the keys that it sees."""
    block, head, batch = _program(T, H, BLOCK_T)
    # With causal attention the last rows take longest, so they start first.
    first_row = (tl.cdiv(T, BLOCK_T) - 1 - block) * BLOCK_T
    rows_T = first_row + tl.arange(0, BLOCK_T)
    kv_head = head // GROUP
    if docs is not None:
        docs += batch.to(tl.int64) * (2 * T)
    if seed is not None:
        seed = tl.load(seed)

    q_TD = _tile(q, q_strides, batch, head, first_row, T, D, BLOCK_T, BLOCK_D)
    max_T = tl.full([BLOCK_T], LOWEST, tl.float32)
    sum_T = tl.zeros([BLOCK_T], tl.float32)
    acc_TD = tl.zeros([BLOCK_T, BLOCK_D], tl.float32)
    low_first, high_first, low_last, high_last = _keys_seen_by_ends(
        first_row, docs, T, S, window, CAUSAL, BLOCK_T
    )
    for PHASE in tl.static_range(FIRST_PHASE, 3):
        start, end = _phase(PHASE, low_first, high_first, low_last, high_last, BLOCK_S)
        for first_key in range(start, end, BLOCK_S):
            k_SD = _tile(k, k_strides, batch, kv_head, first_key, S, D, BLOCK_S, BLOCK_D)
            if PHASE == 1:
                # Scale in the exponent, where multiply and subtract are one instruction.
                logits_TS, factor = _dot(q_TD, tl.trans(k_SD)), scale * LOG2_E
            else:
                logits_TS, factor = _logits(q_TD, k_SD, scale), 1.0
            if PHASE != 1:
                visible_TS = _visible(rows_T, first_key, docs, T, S, window, CAUSAL, BLOCK_S)
                logits_TS = tl.where(visible_TS, logits_TS, float("-inf"))
            max_T, sum_T, shrink_T, p_TS = _softmax_step(max_T, sum_T, logits_TS, factor)
            if seed is not None:
                p_TS = _dropped_out(
                    p_TS, seed, batch * H + head, rows_T, first_key, dropout_p, BLOCK_T, BLOCK_S
                )
            v_SD = _tile(v, v_strides, batch, kv_head, first_key, S, D, BLOCK_S, BLOCK_D)
            acc_TD = acc_TD * shrink_T[:, None] + _dot(p_TS.to(v_SD.dtype), v_SD)
    out_TD, lse2_T = _softmax_end(max_T, sum_T, acc_TD)
    _store(_head(out, out_strides, batch, head), out_strides, rows_T, T, out_TD, D, BLOCK_D)
    tl.store(lse2 + (batch * H + head).to(tl.int64) * T + rows_T, lse2_T, mask=rows_T < T)


# ---- backward ------------------------------------------------------------------------------------
# Two kernels, each of which writes every element of its results exactly once. Without atomics, the
# results are deterministic.


@triton.jit
def _dq_kernel(
    q, q_strides, k, k_strides, v, v_strides, dout, dout_strides, out, out_strides,
    lse2, docs, seed, delta, dq, dq_strides,
    scale, window, dropout_p, H, GROUP, T, S,
    CAUSAL: tl.constexpr, FIRST_PHASE: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """Compute dq of one block of queries of one head, over all the keys that it sees.

    Also compute delta, the sum over D of out * dout, which the gradient of the softmax subtracts
    from each row.
    """
    block, head, batch = _program(T, H, BLOCK_T)
    first_row = (tl.cdiv(T, BLOCK_T) - 1 - block) * BLOCK_T
    rows_T = first_row + tl.arange(0, BLOCK_T)
    kv_head = head // GROUP
    if docs is not None:
        docs += batch.to(tl.int64) * (2 * T)
    if seed is not None:
        seed = tl.load(seed)

    q_TD = _tile(q, q_strides, batch, head, first_row, T, D, BLOCK_T, BLOCK_D)
    dout_TD = _tile(dout, dout_strides, batch, head, first_row, T, D, BLOCK_T, BLOCK_D)
    out_TD = _tile(out, out_strides, batch, head, first_row, T, D, BLOCK_T, BLOCK_D)
    head_start = (batch * H + head).to(tl.int64) * T
    lse2_T = tl.load(lse2 + head_start + rows_T, mask=rows_T < T, other=0.0)
    delta_T = tl.sum(out_TD.to(tl.float32) * dout_TD.to(tl.float32), 1)
    tl.store(delta + head_start + rows_T, delta_T, mask=rows_T < T)
    dq_TD = tl.zeros([BLOCK_T, BLOCK_D], tl.float32)
    low_first, high_first, low_last, high_last = _keys_seen_by_ends(
        first_row, docs, T, S, window, CAUSAL, BLOCK_T
    )
    for PHASE in tl.static_range(FIRST_PHASE, 3):
        start, end = _phase(PHASE, low_first, high_first, low_last, high_last, BLOCK_S)
        for first_key in range(start, end, BLOCK_S):
            k_SD = _tile(k, k_strides, batch, kv_head, first_key, S, D, BLOCK_S, BLOCK_D)
            v_SD = _tile(v, v_strides, batch, kv_head, first_key, S, D, BLOCK_S, BLOCK_D)
            logits_TS = _logits(q_TD, k_SD, scale)
            p_TS = tl.exp2(logits_TS - lse2_T[:, None])
            if PHASE != 1:
                visible_TS = _visible(rows_T, first_key, docs, T, S, window, CAUSAL, BLOCK_S)
                p_TS = tl.where(visible_TS, p_TS, 0.0)
            dp_TS = _dot(dout_TD, tl.trans(v_SD))
            if seed is not None:
                dp_TS = _dropped_out(
                    dp_TS, seed, batch * H + head, rows_T, first_key, dropout_p, BLOCK_T, BLOCK_S
                )
            dlogits_TS = p_TS * (dp_TS - delta_T[:, None])
            dq_TD += _dot(dlogits_TS.to(k_SD.dtype), k_SD)
    _store(_head(dq, dq_strides, batch, head), dq_strides, rows_T, T, dq_TD * scale, D, BLOCK_D)


@triton.jit
def _dkdv_kernel(
    q, q_strides, k, k_strides, v, v_strides, dout, dout_strides, lse2, delta, docs, seed,
    dk, dk_strides, dv, dv_strides, scale, window, dropout_p, H, GROUP, T, S,
    CAUSAL: tl.constexpr, FIRST_PHASE: tl.constexpr, LAST_PHASE: tl.constexpr,
    D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """Compute dk and dv of one block of keys, over all the queries that see it.

    A loop sums over the GROUP query heads that share the keys.
    """
    block, kv_head, batch = _program(S, H // GROUP, BLOCK_S)
    first_key = block * BLOCK_S  # with causal attention the first keys take longest
    keys_S = first_key + tl.arange(0, BLOCK_S)
    if docs is not None:
        docs += batch.to(tl.int64) * (2 * S)
    if seed is not None:
        seed = tl.load(seed)

    # Keys past S need no mask: they only affect rows of dk and dv that are not stored. Rows past T
    # load zeros, which add nothing to dk and dv.
    low_first, high_first = _queries_seeing(first_key, docs, T, S, window, CAUSAL)
    last_key = tl.minimum(first_key + BLOCK_S, S) - 1
    low_last, high_last = _queries_seeing(last_key, docs, T, S, window, CAUSAL)
    k_SD = _tile(k, k_strides, batch, kv_head, first_key, S, D, BLOCK_S, BLOCK_D)
    v_SD = _tile(v, v_strides, batch, kv_head, first_key, S, D, BLOCK_S, BLOCK_D)
    dk_SD = tl.zeros([BLOCK_S, BLOCK_D], tl.float32)
    dv_SD = tl.zeros([BLOCK_S, BLOCK_D], tl.float32)
    for member in range(GROUP):
        head = kv_head * GROUP + member
        head_start = (batch * H + head).to(tl.int64) * T
        for PHASE in tl.static_range(FIRST_PHASE, LAST_PHASE + 1):
            start, end = _phase(PHASE, low_first, high_first, low_last, high_last, BLOCK_T)
            if PHASE == LAST_PHASE:
                end = high_last
            for first_row in range(start, end, BLOCK_T):
                rows_T = first_row + tl.arange(0, BLOCK_T)
                q_TD = _tile(q, q_strides, batch, head, first_row, T, D, BLOCK_T, BLOCK_D)
                dout_TD = _tile(dout, dout_strides, batch, head, first_row, T, D, BLOCK_T, BLOCK_D)
                lse2_T = tl.load(lse2 + head_start + rows_T, mask=rows_T < T, other=0.0)
                delta_T = tl.load(delta + head_start + rows_T, mask=rows_T < T, other=0.0)
                logits_ST = _logits(k_SD, q_TD, scale)
                p_ST = tl.exp2(logits_ST - lse2_T[None, :])
                if PHASE != 1:
                    low_S, high_S = _queries_seeing(keys_S, docs, T, S, window, CAUSAL)
                    visible_ST = (rows_T >= low_S[:, None]) & (rows_T < high_S[:, None])
                    p_ST = tl.where(visible_ST, p_ST, 0.0)
                dropped_ST = p_ST
                dp_ST = _dot(v_SD, tl.trans(dout_TD))
                if seed is not None:
                    factor_TS = _dropped_out(
                        tl.full([BLOCK_T, BLOCK_S], 1.0, tl.float32), seed, batch * H + head,
                        rows_T, first_key, dropout_p, BLOCK_T, BLOCK_S,
                    )  # fmt: skip
                    dropped_ST = p_ST * tl.trans(factor_TS)
                    dp_ST = dp_ST * tl.trans(factor_TS)
                dv_SD += _dot(dropped_ST.to(dout_TD.dtype), dout_TD)
                dlogits_ST = p_ST * (dp_ST - delta_T[None, :])
                dk_SD += _dot(dlogits_ST.to(q_TD.dtype), q_TD)
    _store(_head(dk, dk_strides, batch, kv_head), dk_strides, keys_S, S, dk_SD * scale, D, BLOCK_D)
    _store(_head(dv, dv_strides, batch, kv_head), dv_strides, keys_S, S, dv_SD, D, BLOCK_D)


# ---- launching -----------------------------------------------------------------------------------

# Keys: (bytes per element, padded head width, whether the copy engine loads the tiles). Values:
# rows of the query block, rows of the key block, warps, stages of the load pipeline, and the
# register limit of a thread (None for the compiler's choice). A limit is set where fewer registers
# let one more program run on a multiprocessor. The blocks with the copy engine were measured on an
# H200 (README.md); the others were only chosen to fit. tests/ops/test_compile_ahead.py bounds how
# much they spill.
FORWARD_BLOCKS = {
    (2, 64, True): (64, 128, 4, 2, 168),
    (2, 128, True): (64, 64, 4, 3, None),
    (2, 256, True): (128, 64, 8, 2, None),
    (2, 64, False): (128, 64, 4, 3, None),
    (2, 128, False): (128, 64, 8, 2, None),
    (2, 256, False): (64, 32, 8, 2, None),
    (4, 64, False): (64, 32, 8, 2, None),
    (4, 128, False): (32, 16, 4, 2, None),
    (4, 256, False): (16, 16, 4, 2, None),
}
DQ_BLOCKS = {
    (2, 64, True): (64, 64, 4, 2, None),
    (2, 128, True): (128, 64, 8, 3, None),
    (2, 256, True): (64, 64, 4, 2, None),
    (2, 64, False): (128, 64, 8, 2, None),
    (2, 128, False): (64, 64, 4, 2, None),
    (2, 256, False): (32, 32, 4, 2, None),
    (4, 64, False): (32, 32, 4, 2, None),
    (4, 128, False): (32, 32, 8, 1, None),
    (4, 256, False): (16, 16, 4, 1, None),
}
DKDV_BLOCKS = {
    (2, 64, True): (64, 64, 4, 3, None),
    (2, 128, True): (64, 64, 4, 2, None),
    (2, 256, True): (64, 64, 8, 2, None),
    (2, 64, False): (32, 64, 4, 3, None),
    (2, 128, False): (32, 64, 4, 2, None),
    (2, 256, False): (32, 32, 4, 1, None),
    (4, 64, False): (16, 32, 4, 2, None),
    (4, 128, False): (16, 32, 4, 2, None),
    (4, 256, False): (16, 16, 4, 1, None),
}


def table_key(x_BHTD: torch.Tensor, is_tma: bool) -> tuple[int, int, bool]:
    """Return the key of the block tables for a tensor."""
    block_D = triton.next_power_of_2(x_BHTD.shape[-1])
    return x_BHTD.element_size(), max(block_D, 64), is_tma


def _blocks(table, x_BHTD, is_tma, seed):
    """Return the launch constants of a kernel for the dtype and head width of a tensor."""
    D = x_BHTD.shape[-1]
    block_D = max(triton.next_power_of_2(D), 16)  # tl.dot requires at least 16
    block_T, block_S, num_warps, num_stages, registers = table[table_key(x_BHTD, is_tma)]
    blocks = {
        "D": D,
        "BLOCK_D": block_D,
        "BLOCK_T": block_T,
        "BLOCK_S": block_S,
        "num_warps": num_warps,
        "num_stages": num_stages,
        "enable_fp_fusion": True,
    }
    if seed is not None:
        blocks["num_warps"] = 8  # random numbers take registers; more warps have more of them
    elif registers is not None:
        blocks["maxnreg"] = registers
    return blocks


def _phases(causal, window, docs):
    """Return the phase constants of the forward and dq kernels, and of the dk and dv kernel.

    A loop over keys always has the last phase, because the last block of keys may be partial.
    """
    bounded = window is not None or docs is not None
    return {"FIRST_PHASE": 0 if bounded else 1}, {
        "FIRST_PHASE": 0 if bounded or causal else 1,
        "LAST_PHASE": 2 if bounded else 1,
    }


@functools.cache
def has_copy_engine(device: torch.device) -> bool:
    """Return whether descriptors load the tiles: only on Hopper, where this was measured.

    The result is True on the CPU, because the interpreter supports descriptors.
    """
    if device.type != "cuda":
        return True
    return torch.version.hip is None and torch.cuda.get_device_capability(device)[0] == 9


def by_copy_engine(*tensors: torch.Tensor) -> bool:
    """Return whether the copy engine can load the tensors: strides of 16 bytes, contiguous rows.

    float32 would not benefit, because no matrix unit multiplies it.
    """
    return has_copy_engine(tensors[0].device) and all(
        x.element_size() == 2
        and x.data_ptr() % 16 == 0
        and x.stride(3) == 1
        and all(step > 0 and step % 8 == 0 for step in x.stride()[:3])
        for x in tensors
    )


def _tiled(tensors, rows, blocks, is_tma):
    """Return the kernel arguments of tensors, given the number of rows in a tile of each."""
    if not is_tma:
        return [y for x in tensors for y in (x, x.stride())]
    width = blocks["BLOCK_D"]
    return [
        y
        for x, n in zip(tensors, rows, strict=True)
        for y in (TensorDescriptor(x, x.shape, x.stride(), [1, 1, n, width]), None)
    ]


def flash_attention_forward(
    q_BHTD: torch.Tensor,
    k_BGSD: torch.Tensor,
    v_BGSD: torch.Tensor,
    docs_B2T: torch.Tensor | None,
    seed: torch.Tensor | None,
    causal: bool,
    scale: float,
    window: int | None,
    dropout_p: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the output, like q, and the log-sum-exp of the logits / log 2, (B, H, T) float32.

    q, k and v are float32, float16 or bfloat16, with any strides and D up to 256. docs_B2T holds,
    for each token, the first token and the end of its document, contiguous int32. seed is the seed
    of dropout, (1,) int64. The scale is positive, so that the largest product of a row is its
    largest logit. Nothing is checked.
    """
    B, H, T, _ = q_BHTD.shape
    G, S = k_BGSD.shape[1:3]
    out_BHTD = torch.empty_like(q_BHTD)
    lse2_BHT = torch.empty(B, H, T, device=q_BHTD.device, dtype=torch.float32)
    is_tma = by_copy_engine(q_BHTD, k_BGSD, v_BGSD)
    blocks = _blocks(FORWARD_BLOCKS, q_BHTD, is_tma, seed)
    block_T, block_S = blocks["BLOCK_T"], blocks["BLOCK_S"]
    rows = (block_T, block_S, block_S)
    phases, _ = _phases(causal, window, docs_B2T)
    with torch.cuda.device_of(q_BHTD):
        _forward_kernel[(triton.cdiv(T, block_T) * B * H,)](
            *_tiled((q_BHTD, k_BGSD, v_BGSD), rows, blocks, is_tma),
            out_BHTD, out_BHTD.stride(), lse2_BHT, docs_B2T, seed, scale, window,
            dropout_p, H, H // G, T, S, CAUSAL=causal, **phases, **blocks,
        )  # fmt: skip
    return out_BHTD, lse2_BHT


def flash_attention_backward(
    dout_BHTD: torch.Tensor,
    q_BHTD: torch.Tensor,
    k_BGSD: torch.Tensor,
    v_BGSD: torch.Tensor,
    docs_B2T: torch.Tensor | None,
    seed: torch.Tensor | None,
    out_BHTD: torch.Tensor,
    lse2_BHT: torch.Tensor,
    causal: bool,
    scale: float,
    window: int | None,
    dropout_p: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return dq, dk and dv, shaped like q, k and v. The results are deterministic."""
    B, H, T, _ = q_BHTD.shape
    G, S = k_BGSD.shape[1:3]
    delta_BHT = torch.empty_like(lse2_BHT)
    dq_BHTD = torch.empty_like(q_BHTD)
    dk_BGSD = torch.empty_like(k_BGSD)
    dv_BGSD = torch.empty_like(v_BGSD)
    tensors = (q_BHTD, k_BGSD, v_BGSD, dout_BHTD, out_BHTD)
    is_tma = by_copy_engine(*tensors)
    dq_phases, dkdv_phases = _phases(causal, window, docs_B2T)
    options = (scale, window, dropout_p, H, H // G, T, S)
    with torch.cuda.device_of(q_BHTD):
        blocks = _blocks(DQ_BLOCKS, q_BHTD, is_tma, seed)
        block_T, block_S = blocks["BLOCK_T"], blocks["BLOCK_S"]
        rows = (block_T, block_S, block_S, block_T, block_T)
        _dq_kernel[(triton.cdiv(T, block_T) * B * H,)](
            *_tiled(tensors, rows, blocks, is_tma), lse2_BHT, docs_B2T, seed,
            delta_BHT, dq_BHTD, dq_BHTD.stride(), *options, CAUSAL=causal, **dq_phases, **blocks,
        )  # fmt: skip
        blocks = _blocks(DKDV_BLOCKS, q_BHTD, is_tma, seed)
        block_T, block_S = blocks["BLOCK_T"], blocks["BLOCK_S"]
        rows = (block_T, block_S, block_S, block_T)
        _dkdv_kernel[(triton.cdiv(S, block_S) * B * G,)](
            *_tiled(tensors[:4], rows, blocks, is_tma), lse2_BHT, delta_BHT, docs_B2T, seed,
            dk_BGSD, dk_BGSD.stride(), dv_BGSD, dv_BGSD.stride(), *options,
            CAUSAL=causal, **dkdv_phases, **blocks,
        )  # fmt: skip
    return dq_BHTD, dk_BGSD, dv_BGSD
