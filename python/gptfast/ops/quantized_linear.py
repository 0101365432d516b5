"""A linear layer whose weights are blocks of small numbers: definition, backends and dispatch.

`ops/quantized_blocks.py` says what a block is. Shape suffixes: M rows of the input (all leading
dimensions flattened), N input features, O output features.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from gptfast.errors import UserError
from gptfast.ops.checks import check_tensors
from gptfast.ops.dispatch import choose, without_autocast
from gptfast.ops.operator import operator
from gptfast.ops.quantized_blocks import BLOCK, BLOCK_BYTES, Kind, check_kind, dequantize_blocks
from gptfast.ops.rules import Work, training_and_dtype

if TYPE_CHECKING:
    from gptfast import _rust
else:
    try:
        from gptfast import _rust
    except ImportError:  # a plain checkout without the compiled extension
        _rust = None

# ---- 1. the definition ---------------------------------------------------------------------------


@without_autocast
def quantized_linear_reference(
    x: Tensor, blocks: Tensor, kind: Kind, bias: Tensor | None = None
) -> Tensor:
    """Return x @ weight^T + bias in plain PyTorch, for the weight that the blocks stand for.

    Computes in float32 (float64 inputs stay float64). `quantized_linear` describes the arguments.
    """
    wide = torch.promote_types(x.dtype, torch.float32)
    weight = dequantize_blocks(blocks, kind).to(wide)
    out = F.linear(x.to(wide), weight, None if bias is None else bias.to(wide))
    return out.to(x.dtype)


# ---- 2. the backends -----------------------------------------------------------------------------
# "rust" reads the blocks in place and multiplies integers: every 32 numbers of x are rounded to
# integers up to 127 with a scale, which changes the result by about 0.5%, as in llama.cpp. A row of
# x has the same result, bit by bit, whatever the other rows are (rust/src/linear/).
#
# "torch" dequantizes some rows at a time. Their float copy stays in the processor's cache, where
# the definition allocates and fills memory as large as the whole float matrix.

_NUMBERS_AT_A_TIME = 2**19
"""Weights that "torch" dequantizes at once: 2 MiB of float32."""


@operator("quantized_linear")
def _multiply(x_MN: Tensor, blocks: Tensor, kind: str) -> Tensor:
    """Return (M, O) in float32 by the Rust kernels."""
    x = x_MN.detach().float().contiguous()
    out_MO = x.new_empty(len(x), len(blocks))
    n_threads = torch.get_num_threads()
    _rust.multiply(kind, blocks.contiguous().numpy(), x.numpy(), out_MO.numpy(), n_threads)
    return out_MO


@_multiply.register_fake
def _(x_MN: Tensor, blocks: Tensor, kind: str) -> Tensor:
    return x_MN.new_empty(len(x_MN), len(blocks), dtype=torch.float32)


def _in_rust(x: Tensor, blocks: Tensor, kind: Kind, bias: Tensor | None) -> Tensor:
    out: Tensor = _multiply(x.reshape(-1, x.shape[-1]), blocks, kind)
    if bias is not None:
        out = out + bias
    return out.to(x.dtype).view(*x.shape[:-1], len(blocks))


def _in_chunks(x: Tensor, blocks: Tensor, kind: Kind, bias: Tensor | None) -> Tensor:
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    out: Tensor = (_with_gradient if x.requires_grad else _multiply_in_chunks)(wide, blocks, kind)
    if bias is not None:
        out = out + bias.to(out.dtype)
    return out.to(x.dtype)


def _multiply_in_chunks(x: Tensor, blocks: Tensor, kind: str) -> Tensor:
    known = cast(Kind, kind)
    parts = [quantized_linear_reference(x, some, known) for some in _chunks(blocks, x.shape[-1])]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)


def _chunks(blocks: Tensor, n_features: int) -> tuple[Tensor, ...]:
    return torch.split(blocks, max(1, _NUMBERS_AT_A_TIME // n_features))


# The gradient with respect to x dequantizes the blocks again. Autograd alone would keep the float
# copies of all layers until the backward pass, which is the memory that blocks save.
_with_gradient = operator("quantized_linear_in_chunks")(_multiply_in_chunks)


@_with_gradient.register_fake
def _(x: Tensor, blocks: Tensor, kind: str) -> Tensor:
    return x.new_empty(*x.shape[:-1], len(blocks))


def _keep_blocks(ctx: Any, inputs: tuple[Tensor, Tensor, str], output: Tensor) -> None:
    _, blocks, ctx.kind = inputs
    ctx.save_for_backward(blocks)


def _gradient_of_x(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
    (blocks,) = ctx.saved_tensors
    wide = torch.promote_types(grad.dtype, torch.float32)
    n_features = blocks.shape[1] // BLOCK_BYTES[ctx.kind] * BLOCK
    total = grad.new_zeros(*grad.shape[:-1], n_features, dtype=wide)
    first = 0
    for some in _chunks(blocks, n_features):
        part = grad[..., first : first + len(some)].to(wide)
        total += part @ dequantize_blocks(some, ctx.kind).to(wide)
        first += len(some)
    return total.to(grad.dtype), None, None


_with_gradient.register_autograd(_gradient_of_x, setup_context=_keep_blocks)


# ---- 3. the dispatch -----------------------------------------------------------------------------


def quantized_linear(
    x: Tensor,
    blocks: Tensor,
    kind: Kind,
    bias: Tensor | None = None,
    *,
    backend: str | None = None,
) -> Tensor:
    """Return x @ weight^T + bias for a weight (O, N) that is stored as blocks.

    The blocks have no gradient; x and the bias have one.

    Args:
        x: (..., N), any floating dtype, any strides.
        blocks: (O, bytes of a row), uint8, from `quantize_blocks`.
        kind: 'q8_0' or 'q4_0', how the numbers are stored.
        bias: (O,), any floating dtype.
        backend: "auto", "rust", "torch" or "reference". None means the process's default, see
            `set_backend`. "auto" chooses the first that can serve.

    Returns:
        (..., O), in x's dtype under autocast, too.

    Raises:
        UserError: the inputs don't match, or the given backend can't serve them.
    """
    _check(x, blocks, kind, bias)
    chosen = choose(work(x), backend, x.device, lambda name: why_not(name, x, bias))
    if chosen == "rust":
        return _in_rust(x, blocks, kind, bias)
    if chosen == "torch":
        return _in_chunks(x, blocks, kind, bias)
    return quantized_linear_reference(x, blocks, kind, bias)


def why_not(backend: str, x: Tensor, bias: Tensor | None = None) -> str | None:
    """Return the reason why `backend` can't serve these inputs, or None if it can."""
    if backend != "rust":
        return None
    if _rust is None:
        return "the Rust extension is not built; run `make build`"
    if x.device.type != "cpu":
        return f"the Rust kernels run on the CPU, not on {x.device.type}"
    if x.dtype == torch.float64:
        return "the Rust kernels round x to 8 bits, which is not what float64 is for"
    if torch.is_grad_enabled() and (x.requires_grad or (bias is not None and bias.requires_grad)):
        return "the Rust kernels have no gradient; use torch.no_grad()"
    return None


def work(x: Tensor) -> Work:
    """Return the `Work` of a call, for the rules."""
    return Work("quantized_linear", training_and_dtype(x), x.numel() // x.shape[-1])


def _check(x: Tensor, blocks: Tensor, kind: Kind, bias: Tensor | None) -> None:
    op = "quantized_linear"
    check_tensors(op, x=x, blocks=blocks, **({} if bias is None else {"bias": bias}))
    check_kind(kind)
    if x.ndim == 0 or not x.is_floating_point() or x.shape[-1] == 0 or x.shape[-1] % BLOCK:
        raise UserError(
            f"{op}: x is {x.dtype} of shape {tuple(x.shape)}; expected a floating dtype and "
            f"(..., features), with a multiple of {BLOCK} features"
        )
    n_bytes = x.shape[-1] // BLOCK * BLOCK_BYTES[kind]
    if blocks.dtype != torch.uint8 or blocks.ndim != 2 or blocks.shape[1] != n_bytes:
        raise UserError(
            f"{op}: blocks are {blocks.dtype} of shape {tuple(blocks.shape)}; expected torch.uint8 "
            f"of shape (outputs, {n_bytes}), {kind} for {x.shape[-1]} features"
        )
    if bias is not None and (bias.shape != blocks.shape[:1] or not bias.is_floating_point()):
        raise UserError(
            f"{op}: bias is {bias.dtype} of shape {tuple(bias.shape)}; expected a floating dtype "
            f"and ({len(blocks)},), one for each output"
        )
    devices = {t.device for t in (x, blocks, bias) if t is not None}
    if len(devices) > 1:
        raise UserError(
            f"{op}: the tensors are on {', '.join(sorted(map(str, devices)))}; move them to one "
            f"device with .to()"
        )
