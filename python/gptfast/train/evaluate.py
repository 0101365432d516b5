"""The val loss: the same windows always, in nats per token and in bits per byte."""

from __future__ import annotations

import math

import numpy as np
import torch

from gptfast.data.dataset import TokenSource
from gptfast.data.loader import check_length, document_borders, windows
from gptfast.model import LanguageModel
from gptfast.train.distributed import ALONE, World


@torch.no_grad()
def evaluate(
    model: LanguageModel,
    tokens: TokenSource,
    *,
    batch_size: int,
    max_windows: int | None = None,
    world: World = ALONE,
    separator: int | None = None,
) -> float:
    """Mean loss in nats per token over windows of block_size tokens that don't overlap.

    max_windows: take only so many, spread evenly. None takes the whole split: every token but the
    first is predicted exactly once, the last ones by a window that is shorter than the others.
    world: the processes that share the batches. separator: if given, documents begin with it and
    don't see one another.
    """
    block_size = model.config.block_size
    check_length(tokens, block_size, "val part of the corpus")
    starts = np.arange(0, len(tokens) - block_size, block_size)
    if max_windows is not None and max_windows < len(starts):
        starts = starts[np.linspace(0, len(starts) - 1, max_windows).astype(int)]
    batches = [
        (starts[first : first + batch_size], block_size)
        for first in range(0, len(starts), batch_size)
    ]
    rest = (len(tokens) - 1) % block_size
    if max_windows is None and rest:
        batches.append((np.array([len(tokens) - 1 - rest]), rest))
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    total_count = torch.zeros(2, dtype=torch.float64)
    # Every process goes through the model equally often: with FSDP they depend on one another.
    for first in range(0, len(batches), world.size):
        counts = first + world.rank < len(batches)
        x, y = windows(tokens, *batches[first + world.rank if counts else first])
        borders = None if separator is None else document_borders(x, separator).to(device)
        loss = model(x.to(device), y.to(device), borders).item()
        total_count += counts * torch.tensor([loss * y.numel(), y.numel()], dtype=torch.float64)
    model.train(training)
    total, count = world.sum(total_count.to(device))
    return float(total / count)


def bits_per_byte(nats_per_token: float, bytes_per_token: float) -> float:
    """The same loss per byte of text and in bits, by which different tokenizers compare."""
    return nats_per_token / bytes_per_token / math.log(2)
