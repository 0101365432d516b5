"""Measures over fixed val batches, such as the loss in nats per token and in bits per byte."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from gptfast.data.batch import IGNORED, Batch
from gptfast.model.base import LanguageModel
from gptfast.model.dropout import eval_mode
from gptfast.train.distributed import SINGLE_PROCESS, World


def evaluate(
    model: LanguageModel, batches: Sequence[Batch], world: World = SINGLE_PROCESS
) -> float:
    """Return the mean loss in nats per target, in evaluation mode. Ignored targets don't count.

    world: the processes that share the batches. The model's mode is restored.
    """
    total, count = sums_over(model, batches, _loss_and_count, world)
    return total / count


def _loss_and_count(model: LanguageModel, batch: Batch) -> tuple[float, float]:
    n_targets = int((batch.targets_BT != IGNORED).sum())
    loss = model(batch.ids_BT, batch.targets_BT, batch.cu_seqlens).item()
    return (loss * n_targets, n_targets) if n_targets else (0.0, 0.0)  # the mean of nothing is NaN


@torch.no_grad()
def sums_over(
    model: LanguageModel,
    batches: Sequence[Batch],
    measure: Callable[[LanguageModel, Batch], Sequence[float]],
    world: World = SINGLE_PROCESS,
) -> list[float]:
    """Return the sums of what `measure` returns for each batch, in evaluation mode.

    measure: gets a batch on the model's device, and returns equally many numbers for each. world:
    the processes that share the batches. The model's mode is restored. Means that are weighted by
    what counts are quotients of such sums.
    """
    device = next(model.parameters()).device
    sums: Tensor | None = None
    with eval_mode(model):
        # Every process runs the model equally often, because FSDP synchronizes the processes.
        for first in range(0, len(batches), world.size):
            counts = first + world.rank < len(batches)
            batch = batches[first + world.rank if counts else first]
            measured = torch.tensor(measure(model, batch.to(device)), dtype=torch.float64)
            sums = torch.zeros_like(measured) if sums is None else sums
            if counts:
                sums += measured
    assert sums is not None  # there is at least one batch
    summed: list[float] = world.sum(sums.to(device)).tolist()
    return summed


def spread(n: int, wanted: int | None = None) -> list[int]:
    """Return `wanted` of n indices, evenly spread; all if they are fewer, or if it is None."""
    return np.linspace(0, n - 1, min(n, wanted or n)).astype(int).tolist()  # type: ignore[no-any-return]


def bits_per_byte(nats_per_token: float, bytes_per_token: float) -> float:
    """Convert a loss to bits per byte of text, which is comparable between tokenizers."""
    return nats_per_token / bytes_per_token / math.log(2)
