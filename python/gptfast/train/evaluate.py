"""The val loss: the same windows always, in nats per token and in bits per byte."""

from __future__ import annotations

import math

import numpy as np
import torch

from gptfast.data.loader import check_length, windows
from gptfast.model import LanguageModel
from gptfast.tokenizer.shard import Tokens


@torch.inference_mode()
def evaluate(
    model: LanguageModel, tokens: Tokens, *, batch_size: int, max_windows: int | None = None
) -> float:
    """Mean loss in nats per token over windows of block_size tokens that don't overlap.

    max_windows: take only so many, spread evenly. None takes the whole split: every token but the
    first is predicted exactly once, the last ones by a window that is shorter than the others.
    """
    block_size = model.config.block_size
    check_length(tokens, block_size, "val")
    device = next(model.parameters()).device
    starts = np.arange(0, len(tokens) - block_size, block_size)
    if max_windows is not None and max_windows < len(starts):
        starts = starts[np.linspace(0, len(starts) - 1, max_windows).astype(int)]
    training = model.training
    model.eval()
    total, count = 0.0, 0
    for first in range(0, len(starts), batch_size):
        x, y = windows(tokens, starts[first : first + batch_size], block_size)
        total += model(x.to(device), y.to(device)).item() * y.numel()
        count += y.numel()
    rest = (len(tokens) - 1) % block_size
    if max_windows is None and rest:
        x, y = windows(tokens, np.array([len(tokens) - 1 - rest]), rest)
        total += model(x.to(device), y.to(device)).item() * y.numel()
        count += y.numel()
    model.train(training)
    return total / count


def bits_per_byte(nats_per_token: float, bytes_per_token: float) -> float:
    """The same loss per byte of text and in bits, by which different tokenizers compare."""
    return nats_per_token / bytes_per_token / math.log(2)
