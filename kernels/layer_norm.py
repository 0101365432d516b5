# mypy: ignore-errors
"""Layer norm in Triton: forward and backward, each row read once.

"Layer Normalization", Ba et al. 2016, https://arxiv.org/abs/1607.06450. README.md in this folder
derives the backward. The definition that these kernels are tested against is
`layer_norm_reference` in ops/layer_norm.py.

Shape suffixes: M rows (all leading dimensions of x as one), C channels, P partial sums. Inside a
kernel `_C` is one row padded to BLOCK_C, the next power of two.
"""

import torch
import triton
import triton.language as tl


@triton.jit
def _load_row(x, row_stride, column_stride, row, C: tl.constexpr, BLOCK_C: tl.constexpr):
    """Load a row as float32, zeros past C; 64-bit offsets, as x exceeds 2^31 elements."""
    columns = tl.arange(0, BLOCK_C)
    offsets = row.to(tl.int64) * row_stride + columns.to(tl.int64) * column_stride
    return tl.load(x + offsets, mask=columns < C, other=0.0).to(tl.float32)


@triton.jit
def _store_row(x, row, values_C, C: tl.constexpr, BLOCK_C: tl.constexpr):
    """Store a row of a contiguous matrix."""
    columns = tl.arange(0, BLOCK_C)
    values_C = values_C.to(x.dtype.element_ty)
    tl.store(x + row.to(tl.int64) * C + columns, values_C, mask=columns < C)


@triton.jit
def _forward_kernel(
    x, x_row_stride, x_column_stride, weight, bias, out, mean, rstd, eps,
    HAS_WEIGHT: tl.constexpr, HAS_BIAS: tl.constexpr, C: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """One program: one row."""
    row = tl.program_id(0)
    columns = tl.arange(0, BLOCK_C)
    x_C = _load_row(x, x_row_stride, x_column_stride, row, C, BLOCK_C)
    row_mean = tl.sum(x_C, 0) / C
    centered_C = tl.where(columns < C, x_C - row_mean, 0.0)
    row_rstd = tl.rsqrt(tl.sum(centered_C * centered_C, 0) / C + eps)
    out_C = centered_C * row_rstd
    if HAS_WEIGHT:
        out_C *= tl.load(weight + columns, mask=columns < C, other=0.0).to(tl.float32)
    if HAS_BIAS:
        out_C += tl.load(bias + columns, mask=columns < C, other=0.0).to(tl.float32)
    _store_row(out, row, out_C, C, BLOCK_C)
    tl.store(mean + row, row_mean)
    tl.store(rstd + row, row_rstd)


@triton.jit
def _backward_kernel(
    dout, dout_row_stride, dout_column_stride, x, x_row_stride, x_column_stride, weight, mean, rstd,
    dx, dweight_partial, dbias_partial, M, N_PROGRAMS,
    HAS_WEIGHT: tl.constexpr, HAS_BIAS: tl.constexpr, C: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """One program: dx of every N_PROGRAMS-th row, and these rows' sum of dweight and of dbias."""
    program = tl.program_id(0)
    columns = tl.arange(0, BLOCK_C)
    dweight_C = tl.zeros([BLOCK_C], tl.float32)
    dbias_C = tl.zeros([BLOCK_C], tl.float32)
    if HAS_WEIGHT:
        weight_C = tl.load(weight + columns, mask=columns < C, other=0.0).to(tl.float32)
    for i in range(tl.cdiv(M - program, N_PROGRAMS)):
        row = program + i * N_PROGRAMS
        dout_C = _load_row(dout, dout_row_stride, dout_column_stride, row, C, BLOCK_C)
        x_C = _load_row(x, x_row_stride, x_column_stride, row, C, BLOCK_C)
        row_rstd = tl.load(rstd + row)
        # Past C, dout is 0, and with it every product below.
        normal_C = (x_C - tl.load(mean + row)) * row_rstd
        if HAS_BIAS:
            dbias_C += dout_C
        dnormal_C = dout_C
        if HAS_WEIGHT:
            dweight_C += dout_C * normal_C
            dnormal_C = dout_C * weight_C
        along_mean = tl.sum(dnormal_C, 0) / C
        along_normal = tl.sum(dnormal_C * normal_C, 0) / C
        dx_C = (dnormal_C - along_mean - normal_C * along_normal) * row_rstd
        _store_row(dx, row, dx_C, C, BLOCK_C)
    if HAS_WEIGHT:
        _store_row(dweight_partial, program, dweight_C, C, BLOCK_C)
    if HAS_BIAS:
        _store_row(dbias_partial, program, dbias_C, C, BLOCK_C)


def _block(C: int) -> dict[str, int | bool]:
    """Return the constants of a launch: a row lies in the registers of one program."""
    block_C = triton.next_power_of_2(C)
    # 8 elements per thread, until the largest program there is.
    num_warps = min(max(block_C // 256, 1), 16)
    return {"C": C, "BLOCK_C": block_C, "num_warps": num_warps, "enable_fp_fusion": True}


def layer_norm_forward(
    x: torch.Tensor, weight_C: torch.Tensor | None, bias_C: torch.Tensor | None, eps: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the output, contiguous, and each row's mean and 1/deviation, (M,) in float32.

    Takes x (..., C) in float32, float16 or bfloat16, any strides, C up to 65,536; checks nothing.
    """
    x_MC = x.reshape(-1, x.shape[-1])
    M, C = x_MC.shape
    out = torch.empty(x.shape, device=x.device, dtype=x.dtype)
    mean_M = torch.empty(M, device=x.device, dtype=torch.float32)
    rstd_M = torch.empty_like(mean_M)
    with torch.cuda.device_of(x):
        _forward_kernel[(M,)](
            x_MC, *x_MC.stride(), weight_C, bias_C, out, mean_M, rstd_M, eps,
            HAS_WEIGHT=weight_C is not None, HAS_BIAS=bias_C is not None, **_block(C),
        )  # fmt: skip
    return out, mean_M, rstd_M


def layer_norm_backward(
    dout: torch.Tensor,
    x: torch.Tensor,
    weight_C: torch.Tensor | None,
    mean_M: torch.Tensor,
    rstd_M: torch.Tensor,
    has_bias: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return dx, contiguous, and dweight and dbias, (C,) in float32: zeros where there is none.

    The sums over the rows have two stages and a fixed order, so they have the same bits twice.
    """
    dout_MC, x_MC = dout.reshape(-1, x.shape[-1]), x.reshape(-1, x.shape[-1])
    M, C = x_MC.shape
    block = _block(C)
    # Enough programs to fill a GPU a few times over, but at most 16 MiB of partial sums.
    P = min(M, 512, 2**22 // block["BLOCK_C"])
    dx = torch.empty(x.shape, device=x.device, dtype=x.dtype)
    dweight_PC = dx.new_empty(P if weight_C is not None else 0, C, dtype=torch.float32)
    dbias_PC = dx.new_empty(P if has_bias else 0, C, dtype=torch.float32)
    with torch.cuda.device_of(x):
        _backward_kernel[(P,)](
            dout_MC, *dout_MC.stride(), x_MC, *x_MC.stride(), weight_C, mean_M, rstd_M,
            dx, dweight_PC, dbias_PC, M, P,
            HAS_WEIGHT=weight_C is not None, HAS_BIAS=has_bias, **block,
        )  # fmt: skip
    return dx, dweight_PC.sum(0), dbias_PC.sum(0)
