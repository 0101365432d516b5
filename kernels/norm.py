# mypy: ignore-errors
"""Layer norm and RMS norm in Triton: forward and backward read each row once.

"Layer Normalization", Ba et al. 2016, https://arxiv.org/abs/1607.06450, and "Root Mean Square
Layer Normalization", Zhang & Sennrich 2019, https://arxiv.org/abs/1910.07467. RMS norm does not
subtract the mean; CENTERED selects the norm. README.md in this folder derives the backward pass.
The tests compare these kernels with `layer_norm_reference` and `rms_norm_reference` in ops/norm.py.

Shape suffixes: M rows (all leading dimensions of x flattened), C channels, P partial sums. Inside a
kernel, `_MC` is a tile of BLOCK_M rows, each padded to BLOCK_C, the next power of two.
"""

import torch
import triton
import triton.language as tl

# The minimum number of elements of a program, so that one program serves many short rows.
MIN_TILE = 2048
# The maximum number of backward programs: four for each multiprocessor of an H100.
MAX_PROGRAMS = 528
# The number of pipeline stages, and the longest row, in bytes, for which shared memory holds them.
STAGES, MAX_STAGED = 3, 2**14
# Rows and columns of partial sums that a program of 8 warps adds at a time.
SUM_TILE = 256, 16


@triton.jit
def _load_rows(x, row_stride, column_stride, rows, M, C: tl.constexpr, BLOCK_C: tl.constexpr):
    """Load rows as float32, with zeros past M and C. Offsets have 64 bits: x may be large."""
    columns = tl.arange(0, BLOCK_C)
    offsets = rows[:, None] * row_stride + columns.to(tl.int64)[None, :] * column_stride
    is_inside = (rows < M)[:, None] & (columns < C)[None, :]
    return tl.load(x + offsets, mask=is_inside, other=0.0).to(tl.float32)


@triton.jit
def _store_rows(x, rows, values_MC, M, C: tl.constexpr, BLOCK_C: tl.constexpr):
    """Store rows of a contiguous matrix."""
    columns = tl.arange(0, BLOCK_C)
    is_inside = (rows < M)[:, None] & (columns < C)[None, :]
    values_MC = values_MC.to(x.dtype.element_ty)
    tl.store(x + rows[:, None] * C + columns[None, :], values_MC, mask=is_inside)


@triton.jit
def _load_parameter(parameter, C: tl.constexpr, BLOCK_C: tl.constexpr):
    """Load a weight or a bias as one float32 row, with zeros past C."""
    columns = tl.arange(0, BLOCK_C)
    return tl.load(parameter + columns, mask=columns < C, other=0.0).to(tl.float32)[None, :]


@triton.jit
def _forward_kernel(
    x, x_row_stride, x_column_stride, weight, bias, out, mean, rstd, eps, M,
    CENTERED: tl.constexpr, HAS_WEIGHT: tl.constexpr, HAS_BIAS: tl.constexpr,
    C: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Normalise BLOCK_M rows."""
    rows = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    x_MC = _load_rows(x, x_row_stride, x_column_stride, rows, M, C, BLOCK_C)
    if CENTERED:
        mean_M = tl.sum(x_MC, 1) / C
        tl.store(mean + rows, mean_M, mask=rows < M)
        x_MC = tl.where((tl.arange(0, BLOCK_C) < C)[None, :], x_MC - mean_M[:, None], 0.0)
    rstd_M = tl.rsqrt(tl.sum(x_MC * x_MC, 1) / C + eps)
    tl.store(rstd + rows, rstd_M, mask=rows < M)
    out_MC = x_MC * rstd_M[:, None]
    if HAS_WEIGHT:
        out_MC *= _load_parameter(weight, C, BLOCK_C)
    if HAS_BIAS:
        out_MC += _load_parameter(bias, C, BLOCK_C)
    _store_rows(out, rows, out_MC, M, C, BLOCK_C)


@triton.jit
def _backward_kernel(
    dout, dout_row_stride, dout_column_stride, x, x_row_stride, x_column_stride,
    weight, mean, rstd, dx, partials, M, N_PROGRAMS,
    CENTERED: tl.constexpr, HAS_WEIGHT: tl.constexpr, HAS_BIAS: tl.constexpr,
    C: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Compute dx of every N_PROGRAMS-th tile, and the sums of dweight and dbias over its rows."""
    program = tl.program_id(0)
    dweight_MC = tl.zeros([BLOCK_M, BLOCK_C], tl.float32)
    dbias_MC = tl.zeros([BLOCK_M, BLOCK_C], tl.float32)
    # The pipeline loads the next tiles while this one is computed.
    for i in tl.range(tl.cdiv(tl.cdiv(M, BLOCK_M) - program, N_PROGRAMS), num_stages=STAGES):
        tile = (program + i * N_PROGRAMS).to(tl.int64)
        rows = tile * BLOCK_M + tl.arange(0, BLOCK_M)
        dout_MC = _load_rows(dout, dout_row_stride, dout_column_stride, rows, M, C, BLOCK_C)
        normal_MC = _load_rows(x, x_row_stride, x_column_stride, rows, M, C, BLOCK_C)
        rstd_M1 = tl.load(rstd + rows, mask=rows < M, other=0.0)[:, None]
        # Past M and C dout is 0, so every product below is 0.
        if CENTERED:
            normal_MC -= tl.load(mean + rows, mask=rows < M, other=0.0)[:, None]
        normal_MC *= rstd_M1
        if HAS_BIAS:
            dbias_MC += dout_MC
        dnormal_MC = dout_MC
        if HAS_WEIGHT:
            dweight_MC += dout_MC * normal_MC
            # Load the weight for each tile: the registers are needed for the sums.
            dnormal_MC = dout_MC * _load_parameter(weight, C, BLOCK_C)
        along_normal_M = tl.sum(dnormal_MC * normal_MC, 1) / C
        dx_MC = dnormal_MC - normal_MC * along_normal_M[:, None]
        if CENTERED:
            along_mean_M = tl.sum(dnormal_MC, 1) / C
            dx_MC -= along_mean_M[:, None]
        dx_MC *= rstd_M1
        _store_rows(dx, rows, dx_MC, M, C, BLOCK_C)
    row = program.to(tl.int64) + tl.arange(0, 1)
    if HAS_WEIGHT:
        dweight_1C = tl.sum(dweight_MC, 0)[None, :]
        _store_rows(partials, row, dweight_1C, N_PROGRAMS, C, BLOCK_C)
        row += N_PROGRAMS
    if HAS_BIAS:
        dbias_1C = tl.sum(dbias_MC, 0)[None, :]
        _store_rows(partials, row, dbias_1C, row + 1, C, BLOCK_C)


@triton.jit
def _sum_kernel(partials, out, P, C, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr):
    """Sum a block of columns of one of the (P, C) matrices over its rows."""
    columns = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    partials += tl.program_id(1).to(tl.int64) * P * C
    sum_PC = tl.zeros([BLOCK_P, BLOCK_C], tl.float32)
    for start in range(0, P, BLOCK_P):
        rows = start + tl.arange(0, BLOCK_P)
        is_inside = (rows < P)[:, None] & (columns < C)[None, :]
        sum_PC += tl.load(
            partials + rows[:, None] * C + columns[None, :], mask=is_inside, other=0.0
        )
    tl.store(out + tl.program_id(1) * C + columns, tl.sum(sum_PC, 0), mask=columns < C)


def _block(C: int) -> dict[str, int | bool]:
    """Return the launch constants for tiles of whole rows, which fit into a program's registers."""
    block_C = triton.next_power_of_2(C)
    block_M = max(MIN_TILE // block_C, 1)
    # 32 elements per thread, up to the largest program.
    num_warps = min(block_M * block_C // 1024, 32)
    return {
        "C": C,
        "BLOCK_M": block_M,
        "BLOCK_C": block_C,
        "num_warps": num_warps,
        "enable_fp_fusion": True,
    }


def _rows(x: torch.Tensor) -> tuple[torch.Tensor, int, int]:
    """Return x as a matrix of rows, and its strides, as kernel arguments."""
    x_MC = x.reshape(-1, x.shape[-1])
    return x_MC, *x_MC.stride()


def norm_forward(
    x: torch.Tensor,
    weight_C: torch.Tensor | None,
    bias_C: torch.Tensor | None,
    eps: float,
    centered: bool,
    out_dtype: torch.dtype,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the contiguous output, and the mean and 1/deviation of each row, (M,) float32.

    The mean is empty unless `centered`. x is (..., C) float32, float16 or bfloat16, with any
    strides and C up to 65,536. Nothing is checked.
    """
    C = x.shape[-1]
    M = x.numel() // C
    out = torch.empty(x.shape, device=x.device, dtype=out_dtype)
    mean_M = out.new_empty(M if centered else 0, dtype=torch.float32)
    rstd_M = out.new_empty(M, dtype=torch.float32)
    block = _block(C)
    with torch.cuda.device_of(x):
        _forward_kernel[(triton.cdiv(M, block["BLOCK_M"]),)](
            *_rows(x), weight_C, bias_C, out, mean_M, rstd_M, eps, M, CENTERED=centered,
            HAS_WEIGHT=weight_C is not None, HAS_BIAS=bias_C is not None, **block,
        )  # fmt: skip
    return out, mean_M, rstd_M


def norm_backward(
    dout: torch.Tensor,
    x: torch.Tensor,
    weight_C: torch.Tensor | None,
    mean_M: torch.Tensor,
    rstd_M: torch.Tensor,
    has_bias: bool,
    centered: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the contiguous dx, and dweight and dbias if they exist, (0 to 2, C) float32.

    The sums over the rows have two stages and a fixed order, so the results are deterministic.
    """
    C = x.shape[-1]
    M = x.numel() // C
    block = _block(C)
    # At most 16 MiB of partial sums.
    P = min(triton.cdiv(M, block["BLOCK_M"]), MAX_PROGRAMS, 2**22 // block["BLOCK_C"])
    dx = torch.empty(x.shape, device=x.device, dtype=x.dtype)
    n_sums = (weight_C is not None) + has_bias
    partials_NPC, sums_NC = (
        dx.new_empty(n_sums, *shape, dtype=torch.float32) for shape in ((P, C), (C,))
    )
    with torch.cuda.device_of(x):
        _backward_kernel[(P,)](
            *_rows(dout), *_rows(x), weight_C, mean_M, rstd_M, dx, partials_NPC, M, P,
            CENTERED=centered, HAS_WEIGHT=weight_C is not None, HAS_BIAS=has_bias,
            STAGES=STAGES if block["BLOCK_C"] * x.element_size() <= MAX_STAGED else 1, **block,
        )  # fmt: skip
        if n_sums > 0:
            block_P, block_C = SUM_TILE
            _sum_kernel[(triton.cdiv(C, block_C), n_sums)](
                partials_NPC,
                sums_NC,
                P,
                C,
                BLOCK_P=block_P,
                BLOCK_C=block_C,
                num_warps=8,
                enable_fp_fusion=True,
            )
    return dx, sums_NC
