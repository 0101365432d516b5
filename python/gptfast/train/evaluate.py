"""The val loss over fixed windows, in nats per token and in bits per byte."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from gptfast.data.batch import IGNORED, Batch
from gptfast.model.base import LanguageModel
from gptfast.train.distributed import SINGLE_PROCESS, World


@torch.no_grad()
def evaluate(
    model: LanguageModel, batches: Sequence[Batch], world: World = SINGLE_PROCESS
) -> float:
    """Return the mean loss in nats per target, in evaluation mode. Ignored targets don't count.

    world: the processes that share the batches. The model's mode is restored.
    """
    device = next(model.parameters()).device
    total_count = torch.zeros(2, dtype=torch.float64)
    with eval_mode(model):
        # Every process runs the model equally often, because FSDP synchronizes the processes.
        for first in range(0, len(batches), world.size):
            counts = first + world.rank < len(batches)
            batch = batches[first + world.rank if counts else first]
            n_targets = int((batch.targets_BT != IGNORED).sum())
            here = batch.to(device)
            loss = model(here.ids_BT, here.targets_BT, here.cu_seqlens).item()
            if counts and n_targets:
                total_count += torch.tensor([loss * n_targets, n_targets], dtype=torch.float64)
    total, count = world.sum(total_count.to(device))
    return float(total / count)


@contextmanager
def eval_mode(model: LanguageModel) -> Iterator[None]:
    """Turn off dropout within the block, and restore the model's mode after it."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def bits_per_byte(nats_per_token: float, bytes_per_token: float) -> float:
    """Convert a loss to bits per byte of text, which is comparable between tokenizers."""
    return nats_per_token / bytes_per_token / math.log(2)
