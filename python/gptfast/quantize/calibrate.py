"""Round weights to Q4_0 so that a layer's outputs change least, by GPTQ.

"GPTQ: Accurate Post-Training Quantization" (Frantar et al., 2022), algorithm 1. Each rounding error
changes the layer's output. As inputs are correlated, the weights that are not rounded yet can
compensate for a part of it. How inputs are correlated is measured on text (calibration). The blocks
are valid Q4_0 blocks with the scale of the definition, computed when a block's turn comes.

Legend: O outputs and N inputs of a layer, M tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from gptfast.data.batch import Batch
from gptfast.model import LanguageModel
from gptfast.model.quantized import Quantizer
from gptfast.ops.quantized_blocks import BLOCK, Kind, blocks_of, quantize_blocks

DAMPING = 0.01
"""Share of the mean diagonal that is added to the correlations, as in the paper: inputs that hardly
occurred in the text would otherwise take corrections of any size."""


@torch.inference_mode()
def correlations(model: LanguageModel, batches: Iterable[Batch]) -> dict[str, Tensor]:
    """Return x^T x, (N, N), of the inputs x (M, N) of each linear layer, by its weight's name."""
    sums: dict[str, Tensor] = {}
    hooks = []
    for module_name, module in model.named_modules():
        if not isinstance(module, nn.Linear):
            continue
        name = f"{module_name}.weight"
        sums[name] = torch.zeros(module.in_features, module.in_features)

        def add(_: nn.Module, inputs: tuple[Tensor], name: str = name) -> None:
            x_MN = inputs[0].flatten(0, -2)
            sums[name].addmm_(x_MN.T, x_MN)

        hooks.append(module.register_forward_pre_hook(add))
    try:
        for batch in batches:
            model(batch.ids_BT)
    finally:
        for hook in hooks:
            hook.remove()
    return sums


def calibrated(measured: Mapping[str, Tensor]) -> Quantizer:
    """Return the quantizer that uses `correlations`; other matrices are rounded to the nearest."""

    def quantizer(name: str, weight: Tensor, kind: Kind) -> Tensor:
        if kind == "q4_0" and name in measured:
            return gptq_blocks(weight, measured[name])
        return quantize_blocks(weight, kind)

    return quantizer


def gptq_blocks(weight: Tensor, correlation: Tensor) -> Tensor:
    """Return the Q4_0 blocks of a weight (O, N), given the correlation of its inputs, (N, N)."""
    rest = weight.detach().float().clone()
    factor = _inverse_factor(correlation)
    scales, numbers = [], []
    for start in range(0, rest.shape[1], BLOCK):
        block = slice(start, start + BLOCK)
        columns, inner = rest[:, block], factor[block, block]
        d = columns.gather(1, columns.abs().argmax(1, keepdim=True)) / -8
        d = d.half().float()  # as it is stored
        errors = torch.empty_like(columns)
        q = torch.empty_like(columns)
        for i in range(BLOCK):
            column = columns[:, i : i + 1]
            q_i = torch.where(d == 0, 0, column / d).round_().clamp_(-8, 7)
            error = (column - d * q_i) / inner[i, i]
            columns[:, i:] -= error * inner[i, i:]  # the columns that are still to come compensate
            q[:, i : i + 1], errors[:, i : i + 1] = q_i, error
        rest[:, start + BLOCK :] -= errors @ factor[block, start + BLOCK :]
        scales.append(d)
        numbers.append(q + 8)
    return blocks_of(torch.stack(scales, 1), torch.stack(numbers, 1), "q4_0")


def _inverse_factor(correlation: Tensor) -> Tensor:
    """Return the upper Cholesky factor of the damped correlation's inverse, (N, N)."""
    wide = correlation.double()
    damping = DAMPING * wide.diagonal().mean().clamp(min=1e-12)
    damped = wide + damping * torch.eye(len(wide), dtype=wide.dtype)
    factor: Tensor = torch.linalg.cholesky(torch.linalg.inv(damped), upper=True)
    return factor.float()
