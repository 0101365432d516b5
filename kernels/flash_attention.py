# mypy: ignore-errors
"""FlashAttention in Triton: forward and backward, without ever holding the T x S logits.

"FlashAttention-2: Faster Attention with Better Parallelism and Work Partitioning", Dao 2023,
https://arxiv.org/abs/2307.08691. README.md in this folder derives every line that computes.
The definition that these kernels are tested against is `attention_reference` in ops/attention.py.

Shape suffixes: B batch, T query rows, S key rows, H query heads, G key/value heads, D head width.
Inside a kernel a suffix is one tile: `q_TD` is (BLOCK_T, BLOCK_D), BLOCK_D the next power of two.
Logits are in units of log2: exp2 is one instruction, and log2(e) hides in the scale.
"""

import math

import torch
import triton
import triton.language as tl

LOG2_E = tl.constexpr(math.log2(math.e))
LN_2 = tl.constexpr(math.log(2))
# Where the running maximum starts. Finite, so that exp2(-inf - maximum) is 0 and never NaN.
LOWEST = tl.constexpr(torch.finfo(torch.float32).min)

# ---- shared by the kernels -----------------------------------------------------------------------


@triton.jit
def _head(tensor, strides, batch, head):
    """Address of the matrix tensor[batch, head]; 64 bits, as tensors exceed 2^31 elements."""
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
def _store(matrix, strides, rows, n_rows, values, D: tl.constexpr, BLOCK_D: tl.constexpr):
    columns = tl.arange(0, BLOCK_D)
    inside = (rows < n_rows)[:, None] & (columns < D)[None, :]
    values = values.to(matrix.dtype.element_ty)
    tl.store(_addresses(matrix, strides, rows, columns), values, mask=inside)


@triton.jit
def _is_visible(queries, keys, T, S, CAUSAL: tl.constexpr):
    """Which query sees which key: the last query is aligned with the last key."""
    visible = keys < S
    if CAUSAL:
        visible = visible & (keys <= queries + (S - T))
    return visible


@triton.jit
def _key_range(block, T, S, CAUSAL: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_S: tl.constexpr):
    """Return (full, end) for a block of queries.

    Keys [0, full) are whole blocks that every query sees: no mask. Keys [full, end) need the mask,
    and no query sees beyond end.
    """
    full = S
    end = S
    if CAUSAL:
        seen_by_first = block * BLOCK_T + 1 + (S - T)
        seen_by_last = (block + 1) * BLOCK_T + (S - T)
        full = tl.minimum(tl.maximum(seen_by_first, 0), S)
        end = tl.minimum(tl.maximum(seen_by_last, 0), S)
    return full // BLOCK_S * BLOCK_S, end


@triton.jit
def _dot(a, b):
    # "ieee" concerns float32 alone: the default there would be TF32, with 10 bits of mantissa.
    return tl.dot(a, b, input_precision="ieee")


# ---- forward -------------------------------------------------------------------------------------


@triton.jit
def _forward_kernel(
    q, q_strides, k, k_strides, v, v_strides, out, out_strides, lse, scale, H, GROUP, T, S,
    CAUSAL: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """One program: one block of queries of one head, against all the keys it sees."""
    n_blocks = tl.cdiv(T, BLOCK_T)
    block = tl.program_id(0) % n_blocks
    head = tl.program_id(0) // n_blocks % H
    batch = tl.program_id(0) // n_blocks // H
    rows_T = block * BLOCK_T + tl.arange(0, BLOCK_T)
    k = _head(k, k_strides, batch, head // GROUP)
    v = _head(v, v_strides, batch, head // GROUP)

    q_TD = _load(_head(q, q_strides, batch, head), q_strides, rows_T, T, D, BLOCK_D)
    max_T = tl.full([BLOCK_T], LOWEST, tl.float32)
    sum_T = tl.zeros([BLOCK_T], tl.float32)
    acc_TD = tl.zeros([BLOCK_T, BLOCK_D], tl.float32)
    full, end = _key_range(block, T, S, CAUSAL, BLOCK_T, BLOCK_S)
    max_T, sum_T, acc_TD = _forward_loop(
        max_T, sum_T, acc_TD, q_TD, k, k_strides, v, v_strides, scale * LOG2_E, rows_T, T, S,
        0, full, False, CAUSAL, D, BLOCK_D, BLOCK_S,
    )  # fmt: skip
    max_T, sum_T, acc_TD = _forward_loop(
        max_T, sum_T, acc_TD, q_TD, k, k_strides, v, v_strides, scale * LOG2_E, rows_T, T, S,
        full, end, True, CAUSAL, D, BLOCK_D, BLOCK_S,
    )  # fmt: skip

    # A query that saw no key: its output is 0 and its log-sum-exp -inf.
    saw_none_T = sum_T == 0
    sum_T = tl.where(saw_none_T, 1.0, sum_T)
    out_TD = acc_TD / sum_T[:, None]
    _store(_head(out, out_strides, batch, head), out_strides, rows_T, T, out_TD, D, BLOCK_D)
    lse_T = tl.where(saw_none_T, float("-inf"), (max_T + tl.log2(sum_T)) * LN_2)
    tl.store(lse + (batch * H + head).to(tl.int64) * T + rows_T, lse_T, mask=rows_T < T)


@triton.jit
def _forward_loop(
    max_T, sum_T, acc_TD, q_TD, k, k_strides, v, v_strides, scale_log2, rows_T, T, S,
    start, end, MASKED: tl.constexpr, CAUSAL: tl.constexpr, D: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """The online softmax over the keys [start, end)."""
    for first_key in range(start, end, BLOCK_S):
        keys_S = first_key + tl.arange(0, BLOCK_S)
        k_SD = _load(k, k_strides, keys_S, S, D, BLOCK_D)
        logits_TS = _dot(q_TD, tl.trans(k_SD)) * scale_log2
        if MASKED:
            visible_TS = _is_visible(rows_T[:, None], keys_S[None, :], T, S, CAUSAL)
            logits_TS = tl.where(visible_TS, logits_TS, float("-inf"))
        new_max_T = tl.maximum(max_T, tl.max(logits_TS, 1))
        p_TS = tl.exp2(logits_TS - new_max_T[:, None])
        shrink_T = tl.exp2(max_T - new_max_T)
        sum_T = sum_T * shrink_T + tl.sum(p_TS, 1)
        v_SD = _load(v, v_strides, keys_S, S, D, BLOCK_D)
        acc_TD = acc_TD * shrink_T[:, None] + _dot(p_TS.to(v_SD.dtype), v_SD)
        max_T = new_max_T
    return max_T, sum_T, acc_TD


# ---- backward ------------------------------------------------------------------------------------
# Three kernels, each writing every element of its result exactly once: no atomics, so the same
# inputs give the same bits.


@triton.jit
def _delta_kernel(
    out, out_strides, dout, dout_strides, delta, H, T,
    D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_T: tl.constexpr,
):  # fmt: skip
    """delta = sum over D of out * dout: what the softmax's gradient subtracts from each row."""
    n_blocks = tl.cdiv(T, BLOCK_T)
    rows_T = tl.program_id(0) % n_blocks * BLOCK_T + tl.arange(0, BLOCK_T)
    head = tl.program_id(0) // n_blocks % H
    batch = tl.program_id(0) // n_blocks // H
    out_TD = _load(_head(out, out_strides, batch, head), out_strides, rows_T, T, D, BLOCK_D)
    dout_TD = _load(_head(dout, dout_strides, batch, head), dout_strides, rows_T, T, D, BLOCK_D)
    delta_T = tl.sum(out_TD.to(tl.float32) * dout_TD.to(tl.float32), 1)
    tl.store(delta + (batch * H + head).to(tl.int64) * T + rows_T, delta_T, mask=rows_T < T)


@triton.jit
def _dq_kernel(
    q, q_strides, k, k_strides, v, v_strides, dout, dout_strides, lse, delta, dq, dq_strides,
    scale, H, GROUP, T, S, CAUSAL: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """One program: dq of one block of queries of one head, over all the keys it sees."""
    n_blocks = tl.cdiv(T, BLOCK_T)
    block = tl.program_id(0) % n_blocks
    head = tl.program_id(0) // n_blocks % H
    batch = tl.program_id(0) // n_blocks // H
    rows_T = block * BLOCK_T + tl.arange(0, BLOCK_T)
    k = _head(k, k_strides, batch, head // GROUP)
    v = _head(v, v_strides, batch, head // GROUP)

    q_TD = _load(_head(q, q_strides, batch, head), q_strides, rows_T, T, D, BLOCK_D)
    dout_TD = _load(_head(dout, dout_strides, batch, head), dout_strides, rows_T, T, D, BLOCK_D)
    head_start = (batch * H + head).to(tl.int64) * T
    lse_T = tl.load(lse + head_start + rows_T, mask=rows_T < T, other=0.0) * LOG2_E
    delta_T = tl.load(delta + head_start + rows_T, mask=rows_T < T, other=0.0)
    dq_TD = tl.zeros([BLOCK_T, BLOCK_D], tl.float32)
    full, end = _key_range(block, T, S, CAUSAL, BLOCK_T, BLOCK_S)
    dq_TD = _dq_loop(
        dq_TD, q_TD, dout_TD, lse_T, delta_T, k, k_strides, v, v_strides, scale * LOG2_E, rows_T,
        T, S, 0, full, False, CAUSAL, D, BLOCK_D, BLOCK_S,
    )  # fmt: skip
    dq_TD = _dq_loop(
        dq_TD, q_TD, dout_TD, lse_T, delta_T, k, k_strides, v, v_strides, scale * LOG2_E, rows_T,
        T, S, full, end, True, CAUSAL, D, BLOCK_D, BLOCK_S,
    )  # fmt: skip
    _store(_head(dq, dq_strides, batch, head), dq_strides, rows_T, T, dq_TD * scale, D, BLOCK_D)


@triton.jit
def _dq_loop(
    dq_TD, q_TD, dout_TD, lse_T, delta_T, k, k_strides, v, v_strides, scale_log2, rows_T, T, S,
    start, end, MASKED: tl.constexpr, CAUSAL: tl.constexpr, D: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    for first_key in range(start, end, BLOCK_S):
        keys_S = first_key + tl.arange(0, BLOCK_S)
        k_SD = _load(k, k_strides, keys_S, S, D, BLOCK_D)
        v_SD = _load(v, v_strides, keys_S, S, D, BLOCK_D)
        p_TS = tl.exp2(_dot(q_TD, tl.trans(k_SD)) * scale_log2 - lse_T[:, None])
        if MASKED:
            visible_TS = _is_visible(rows_T[:, None], keys_S[None, :], T, S, CAUSAL)
            p_TS = tl.where(visible_TS, p_TS, 0.0)
        dp_TS = _dot(dout_TD, tl.trans(v_SD))
        dlogits_TS = p_TS * (dp_TS - delta_T[:, None])
        dq_TD += _dot(dlogits_TS.to(k_SD.dtype), k_SD)
    return dq_TD


@triton.jit
def _dkdv_kernel(
    q, q_strides, k, k_strides, v, v_strides, dout, dout_strides, lse, delta,
    dk, dk_strides, dv, dv_strides, scale, H, GROUP, T, S,
    CAUSAL: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """One program: dk and dv of one block of keys, over all the queries that see it.

    The GROUP query heads that share the keys are summed here, one after the other.
    """
    G = H // GROUP
    n_blocks = tl.cdiv(S, BLOCK_S)
    block = tl.program_id(0) % n_blocks
    kv_head = tl.program_id(0) // n_blocks % G
    batch = tl.program_id(0) // n_blocks // G
    keys_S = block * BLOCK_S + tl.arange(0, BLOCK_S)

    # Queries before `first` see none of these keys, those from `full` on see all of them. Keys
    # past S need no mask: they only fill rows of dk and dv that are not stored.
    first = 0
    full = 0
    if CAUSAL:
        sees_first_key = tl.maximum(block * BLOCK_S - (S - T), 0)
        sees_last_key = tl.maximum((block + 1) * BLOCK_S - 1 - (S - T), 0)
        first = sees_first_key // BLOCK_T * BLOCK_T
        full = tl.cdiv(sees_last_key, BLOCK_T) * BLOCK_T

    k_SD = _load(_head(k, k_strides, batch, kv_head), k_strides, keys_S, S, D, BLOCK_D)
    v_SD = _load(_head(v, v_strides, batch, kv_head), v_strides, keys_S, S, D, BLOCK_D)
    dk_SD = tl.zeros([BLOCK_S, BLOCK_D], tl.float32)
    dv_SD = tl.zeros([BLOCK_S, BLOCK_D], tl.float32)
    for member in range(GROUP):
        head = kv_head * GROUP + member
        q_head = _head(q, q_strides, batch, head)
        dout_head = _head(dout, dout_strides, batch, head)
        head_start = (batch * H + head).to(tl.int64) * T
        if CAUSAL:
            dk_SD, dv_SD = _dkdv_loop(
                dk_SD, dv_SD, k_SD, v_SD, q_head, q_strides, dout_head, dout_strides,
                lse + head_start, delta + head_start, scale * LOG2_E, keys_S, T, S,
                first, tl.minimum(full, T), True, CAUSAL, D, BLOCK_D, BLOCK_T,
            )  # fmt: skip
        dk_SD, dv_SD = _dkdv_loop(
            dk_SD, dv_SD, k_SD, v_SD, q_head, q_strides, dout_head, dout_strides,
            lse + head_start, delta + head_start, scale * LOG2_E, keys_S, T, S,
            full, T, False, CAUSAL, D, BLOCK_D, BLOCK_T,
        )  # fmt: skip
    _store(_head(dk, dk_strides, batch, kv_head), dk_strides, keys_S, S, dk_SD * scale, D, BLOCK_D)
    _store(_head(dv, dv_strides, batch, kv_head), dv_strides, keys_S, S, dv_SD, D, BLOCK_D)


@triton.jit
def _dkdv_loop(
    dk_SD, dv_SD, k_SD, v_SD, q, q_strides, dout, dout_strides, lse, delta, scale_log2, keys_S,
    T, S, start, end, MASKED: tl.constexpr, CAUSAL: tl.constexpr, D: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_T: tl.constexpr,
):  # fmt: skip
    for first_row in range(start, end, BLOCK_T):
        rows_T = first_row + tl.arange(0, BLOCK_T)
        # Rows past T load zeros, which add nothing to dk and dv.
        q_TD = _load(q, q_strides, rows_T, T, D, BLOCK_D)
        dout_TD = _load(dout, dout_strides, rows_T, T, D, BLOCK_D)
        lse_T = tl.load(lse + rows_T, mask=rows_T < T, other=0.0) * LOG2_E
        delta_T = tl.load(delta + rows_T, mask=rows_T < T, other=0.0)
        p_ST = tl.exp2(_dot(k_SD, tl.trans(q_TD)) * scale_log2 - lse_T[None, :])
        if MASKED:
            visible_ST = _is_visible(rows_T[None, :], keys_S[:, None], T, S, CAUSAL)
            p_ST = tl.where(visible_ST, p_ST, 0.0)
        dv_SD += _dot(p_ST.to(dout_TD.dtype), dout_TD)
        dp_ST = _dot(v_SD, tl.trans(dout_TD))
        dlogits_ST = p_ST * (dp_ST - delta_T[None, :])
        dk_SD += _dot(dlogits_ST.to(q_TD.dtype), q_TD)
    return dk_SD, dv_SD


# ---- launching -----------------------------------------------------------------------------------

# (bytes per element, padded head width): rows of the query block, rows of the key block, warps,
# stages of the load pipeline. The half-precision ones up to 128 spill no registers on sm_80, sm_90
# and sm_100; tests/ops/test_compile_ahead.py holds that.
FORWARD_BLOCKS = {
    (2, 64): (128, 64, 4, 3),
    (2, 128): (128, 64, 8, 2),
    (2, 256): (64, 32, 8, 2),
    (4, 64): (64, 32, 8, 2),
    (4, 128): (32, 16, 4, 2),
    (4, 256): (16, 16, 4, 2),
}
DQ_BLOCKS = {
    (2, 64): (128, 64, 8, 2),
    (2, 128): (64, 64, 4, 2),
    (2, 256): (32, 32, 4, 2),
    (4, 64): (32, 32, 4, 2),
    (4, 128): (32, 32, 8, 1),
    (4, 256): (16, 16, 4, 1),
}
DKDV_BLOCKS = {
    (2, 64): (32, 64, 4, 3),
    (2, 128): (32, 64, 4, 2),
    (2, 256): (32, 32, 4, 1),
    (4, 64): (16, 32, 4, 2),
    (4, 128): (16, 32, 4, 2),
    (4, 256): (16, 16, 4, 1),
}


def _blocks(table, x):
    """Return the constants that a kernel takes for the dtype and head width of `x`."""
    D = x.shape[-1]
    block_D = max(triton.next_power_of_2(D), 16)  # tl.dot multiplies no less than 16
    block_T, block_S, num_warps, num_stages = table[x.element_size(), max(block_D, 64)]
    return {
        "D": D,
        "BLOCK_D": block_D,
        "BLOCK_T": block_T,
        "BLOCK_S": block_S,
        "num_warps": num_warps,
        "num_stages": num_stages,
        "enable_fp_fusion": True,
    }


def flash_attention_forward(
    q_BHTD: torch.Tensor, k_BGSD: torch.Tensor, v_BGSD: torch.Tensor, causal: bool, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the output, like q, and the log-sum-exp of the logits, (B, H, T) in float32.

    Takes float32, float16 or bfloat16, any strides, D up to 256; checks nothing.
    """
    B, H, T, _ = q_BHTD.shape
    G, S = k_BGSD.shape[1:3]
    out_BHTD = torch.empty_like(q_BHTD)
    lse_BHT = torch.empty(B, H, T, device=q_BHTD.device, dtype=torch.float32)
    blocks = _blocks(FORWARD_BLOCKS, q_BHTD)
    with torch.cuda.device_of(q_BHTD):
        _forward_kernel[(triton.cdiv(T, blocks["BLOCK_T"]) * B * H,)](
            q_BHTD, q_BHTD.stride(), k_BGSD, k_BGSD.stride(), v_BGSD, v_BGSD.stride(),
            out_BHTD, out_BHTD.stride(), lse_BHT, scale, H, H // G, T, S, CAUSAL=causal, **blocks,
        )  # fmt: skip
    return out_BHTD, lse_BHT


def flash_attention_backward(
    dout_BHTD: torch.Tensor,
    dlse_BHT: torch.Tensor | None,
    q_BHTD: torch.Tensor,
    k_BGSD: torch.Tensor,
    v_BGSD: torch.Tensor,
    out_BHTD: torch.Tensor,
    lse_BHT: torch.Tensor,
    causal: bool,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return dq, dk and dv, like q, k and v; the same bits for the same inputs."""
    B, H, T, _ = q_BHTD.shape
    G, S = k_BGSD.shape[1:3]
    delta_BHT = torch.empty_like(lse_BHT)
    dq_BHTD = torch.empty_like(q_BHTD)
    dk_BGSD = torch.empty_like(k_BGSD)
    dv_BGSD = torch.empty_like(v_BGSD)
    with torch.cuda.device_of(q_BHTD):
        blocks = _blocks(DQ_BLOCKS, q_BHTD)
        _delta_kernel[(triton.cdiv(T, blocks["BLOCK_T"]) * B * H,)](
            out_BHTD, out_BHTD.stride(), dout_BHTD, dout_BHTD.stride(), delta_BHT, H, T,
            blocks["D"], blocks["BLOCK_D"], blocks["BLOCK_T"], enable_fp_fusion=True,
        )  # fmt: skip
        if dlse_BHT is not None:
            delta_BHT -= dlse_BHT  # d lse / d logits is the softmax itself
        inputs = (
            q_BHTD, q_BHTD.stride(), k_BGSD, k_BGSD.stride(), v_BGSD, v_BGSD.stride(),
            dout_BHTD, dout_BHTD.stride(), lse_BHT, delta_BHT,
        )  # fmt: skip
        sizes = (scale, H, H // G, T, S)
        _dq_kernel[(triton.cdiv(T, blocks["BLOCK_T"]) * B * H,)](
            *inputs, dq_BHTD, dq_BHTD.stride(), *sizes, CAUSAL=causal, **blocks
        )
        blocks = _blocks(DKDV_BLOCKS, q_BHTD)
        _dkdv_kernel[(triton.cdiv(S, blocks["BLOCK_S"]) * B * G,)](
            *inputs, dk_BGSD, dk_BGSD.stride(), dv_BGSD, dv_BGSD.stride(), *sizes,
            CAUSAL=causal, **blocks,
        )  # fmt: skip
    return dq_BHTD, dk_BGSD, dv_BGSD
