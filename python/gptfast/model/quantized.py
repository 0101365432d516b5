"""Models whose matrices are blocks of small numbers: fast on a CPU, small in memory.

`quantize` replaces the matrices of a GPT by modules that hold blocks (ops/quantized_blocks.py).
Everything else stays float32, and the model computes in float32. It can't be trained, but an
adapter beside it can (model/lora.py).

Legend: B batch, T time, C channels (n_embd), V vocabulary, E experts, O outputs and N inputs of a
matrix.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, get_args

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from gptfast import ops
from gptfast.errors import UserError
from gptfast.model.base import LanguageModel
from gptfast.model.build import build_model
from gptfast.model.config import ModelConfig, Precision
from gptfast.model.kv_cache import NewTokens
from gptfast.model.transformer import GPT
from gptfast.ops.dispatch import default_backend
from gptfast.ops.quantized_blocks import (
    BLOCK,
    BLOCK_BYTES,
    Kind,
    dequantize_blocks,
    quantize_blocks,
    row_bytes,
)

Quantizer = Callable[[str, Tensor, Kind], Tensor]
"""Returns the blocks of a matrix, given the name of its parameter, the matrix and the kind."""


def rounded(name: str, weight: Tensor, kind: Kind) -> Tensor:
    """Return the blocks of a matrix, rounded as GGUF's reference rounds: a `Quantizer`."""
    return quantize_blocks(weight, kind)


class Blocks(nn.Module):
    """A matrix (..., N) in blocks. They are a buffer, because only floats can be trained."""

    blocks: Tensor
    """uint8 (..., bytes of a row), contiguous."""
    is_exact = False
    """Whether to multiply by exact float weights in evaluation, too. See `compute_exactly`."""

    def __init__(self, shape: tuple[int, ...], kind: Kind) -> None:
        super().__init__()
        self.kind: Kind = kind
        *rows, n_columns = shape
        empty = torch.empty(*rows, row_bytes(n_columns, kind), dtype=torch.uint8)
        self.register_buffer("blocks", empty)

    @property
    def weight(self) -> Tensor:
        """The float32 matrix that the blocks stand for, made anew at each access."""
        return dequantize_blocks(self.blocks, self.kind)

    @property
    def scales(self) -> Tensor:
        """The float16 scales of the blocks, (..., blocks in a row)."""
        rows = self.blocks.reshape(*self.blocks.shape[:-1], -1, BLOCK_BYTES[self.kind])
        return rows[..., :2].contiguous().view(torch.float16).squeeze(-1)

    def multiply(self, x: Tensor, blocks: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return x @ weight^T + bias, with exact float weights in training, beside an adapter.

        The fast kernels round x to 8 bits, and have no gradient.
        """
        is_exact = (self.training or self.is_exact) and default_backend() == "auto"
        backend = "torch" if is_exact else None
        return ops.quantized_linear(x, blocks, self.kind, bias, backend=backend)

    def extra_repr(self) -> str:
        """Return what `print` shows of this module."""
        return f"{self.kind}, {tuple(self.blocks.shape)}"


class QuantizedLinear(Blocks):
    """nn.Linear whose weight (O, N) is in blocks. The bias is float32."""

    def __init__(self, shape: tuple[int, ...], kind: Kind, bias: nn.Parameter | None) -> None:
        super().__init__(shape, kind)
        self.out_features, self.in_features = shape
        self.bias = bias

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., O) for x (..., N)."""
        return self.multiply(x, self.blocks, self.bias)


class QuantizedTable(Blocks):
    """A table of vectors in blocks. Only the rows that are looked up become floats."""

    def forward(self, rows: Tensor) -> Tensor:
        """Return (..., C) for rows (...), int64."""
        return dequantize_blocks(self.blocks[rows], self.kind)


class QuantizedEmbedding(Blocks):
    """The token embedding (V, C) in blocks, which serve as a tied head, too."""

    def forward(
        self, ids_BT: Tensor, cache: NewTokens | None = None, cu_seqlens: Tensor | None = None
    ) -> Tensor:
        """Return (B, T, C) for ids (B, T). Only their rows become floats."""
        return dequantize_blocks(self.blocks[ids_BT], self.kind)

    def logits(self, hidden: Tensor) -> Tensor:
        """Return (..., V) for hidden (..., C), with the table as the output matrix."""
        return self.multiply(hidden, self.blocks)


class QuantizedExperts(Blocks):
    """One matrix of each expert, (E, O, N), in blocks."""

    def forward(self, rows: Tensor, ends_E: Tensor) -> Tensor:
        """Return (M, O): the rows (M, N) of each expert, which end at `ends_E`, by its matrix."""
        parts = rows.tensor_split(ends_E[:-1].long().cpu())
        return torch.cat(
            [self.multiply(part, blocks) for part, blocks in zip(parts, self.blocks, strict=True)]
        )


@torch.no_grad()
def quantize(
    model: LanguageModel, precision: Precision, quantizer: Quantizer = rounded
) -> LanguageModel:
    """Store a GPT's weights in another precision, in place; return it in evaluation mode.

    In int8 and int4, no parameter requires a gradient.
    Matrices whose rows don't divide into blocks of 32 stay float32; `float_matrices` names them. On
    the meta device, the model gets its modules without values. The quantizer is not asked for bf16.

    Raises UserError for an unknown precision, for a model that is not a GPT or is quantized
    already, and for weights beyond float16's range.
    """
    if precision not in get_args(Precision):
        raise UserError(f"precision is {precision!r}: expected 'int8', 'int4' or 'bf16'")
    if not isinstance(model, GPT):
        raise UserError(f"the model is a {model.config.architecture!r}: only a GPT is quantized")
    if model.quantized is not None:
        raise UserError(f"the model is in {model.quantized} already: expected one in float32")
    if precision == "bf16":
        return model.bfloat16().eval()
    model.quantized, model.n_quantized = precision, model.n_parameters()
    for name, weight in list(_matrices(model)):
        _replace(model, name, weight, precision, quantizer)
    return model.requires_grad_(False).eval()


def compute_exactly(model: LanguageModel) -> None:
    """Let a quantized model compute in evaluation what it computes in training."""
    for module in model.modules():
        if isinstance(module, Blocks):
            module.is_exact = True


@torch.no_grad()
def round_to_blocks(model: LanguageModel, precision: Precision) -> None:
    """Round a GPT's weights to what the blocks of `quantize` stand for, in place: still floats.

    Raises UserError as `quantize` does.
    """
    assert isinstance(model, GPT)
    for name, weight in _matrices(model):
        kind = _kind_of(name.rpartition(".")[0], precision)
        weight.copy_(dequantize_blocks(quantize_blocks(weight, kind), kind))


def empty_model(config: ModelConfig, precision: Precision) -> LanguageModel:
    """Return a quantized model without values, on the meta device, for weights that come later.

    No float32 weights exist on the way. Raises UserError as `quantize` does.
    """
    with torch.device("meta"), _NoNoise():
        return quantize(build_model(config), precision)


class _NoNoise(TorchFunctionMode):
    """Leaves out the drawing of initial weights, for which the meta device imports a compiler."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is nn.init.normal_:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def _replace(
    model: GPT, name: str, weight: nn.Parameter, precision: Precision, quantizer: Quantizer
) -> None:
    """Replace a matrix, or the layer whose weight it is, by the module that holds its blocks."""
    layer_name, _, own_name = name.rpartition(".")
    layer, kind = model.get_submodule(layer_name), _kind_of(layer_name, precision)
    shape = tuple(weight.shape)
    new: Blocks
    with weight.device:
        if isinstance(layer, nn.Linear):
            new = QuantizedLinear(shape, kind, layer.bias)
        elif layer_name == "wte":
            new = QuantizedEmbedding(shape, kind)
        elif layer_name == "wne":
            new = QuantizedTable(shape, kind)
        else:
            new = QuantizedExperts(shape, kind)
    if not weight.is_meta:
        new.blocks.copy_(quantizer(name, weight, kind))
    if own_name == "weight" and layer_name != "wne":
        model.set_submodule(layer_name, new)
    else:
        delattr(layer, own_name)  # nn.Module takes no module where a parameter is
        setattr(layer, own_name, new)


def _kind_of(layer: str, precision: Precision) -> Kind:
    is_table = layer in ("wte", "wne", "lm_head")
    return "q4_0" if precision == "int4" and not is_table else "q8_0"


def _matrices(model: GPT) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield (name, matrix) for each matrix to be stored in blocks."""
    for name, parameter in model.named_parameters():
        is_head = name.partition(".")[0] in model.heads
        if _is_large(name, parameter) and parameter.shape[-1] % BLOCK == 0 and not is_head:
            yield name, parameter


def _is_large(name: str, parameter: nn.Parameter) -> bool:
    # Positions and the router are small, and what they lose is not.
    return parameter.ndim >= 2 and name != "wpe.weight" and not name.endswith("router.weight")


def float_matrices(model: LanguageModel) -> list[str]:
    """Return the names of the matrices of a quantized model whose rows don't divide into blocks."""
    return [name for name, parameter in model.named_parameters() if _is_large(name, parameter)]
