"""What quantizing costs and gains: loss, divergence, agreement, size and speed.

Shape suffixes: M predicted tokens, V vocabulary.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from gptfast.data.batch import Batch
from gptfast.errors import UserError
from gptfast.model import LanguageModel
from gptfast.model.divergence import compare_logits

REPEATS, SECONDS = 3, 0.5
"""How often speeds are measured at least, and for how long. The best counts, as other work on the
machine only slows it."""


@dataclass(frozen=True)
class Change:
    """How the predictions of a model changed, over the same tokens with the same context."""

    tokens: int
    """Number of predicted tokens."""
    before: float
    """Mean loss in nats per token."""
    after: float
    kl: float
    """Mean KL(before || after) in nats per token."""
    agreement: float
    """Share of the tokens for which both find the same token the likeliest."""


@torch.inference_mode()
def measure_change(
    before: LanguageModel, after: LanguageModel, batches: Sequence[Batch], n_vocab: int
) -> Change:
    """Compare two models on windows of text.

    n_vocab: number of ids of the tokenizer; KL and agreement leave out the logits of further ids,
    which are padding. Raises UserError if a loss is not finite.
    """
    sums = torch.zeros(4, dtype=torch.float64)
    n = 0
    for batch in batches:
        first_MV, second_MV = (model(batch.ids_BT).flatten(0, 1) for model in (before, after))
        found = compare_logits(first_MV, second_MV, batch.targets_BT.flatten(), n_vocab)
        sums += torch.stack([x.sum() for x in (*found.losses, found.kl_M, found.agrees_M)])
        n += batch.targets_BT.numel()
    first, second, kl, agreement = (sums / n).tolist()
    if not math.isfinite(first + second):
        raise UserError(
            f"the loss is {first} before and {second} after: the weights are too large for their "
            f"logits; take those of another step or run"
        )
    return Change(n, first, second, kl, agreement)


def decoding_speeds(models: Sequence[LanguageModel], n_tokens: int = 64) -> list[float]:
    """Return the tokens per second of each model that writes one text, greedily.

    n_tokens: written after a prompt as long; both are shorter if the context is. The models take
    turns, so that other work on the machine slows all of them.
    """
    speeds = [0.0] * len(models)
    began, n_done = time.perf_counter(), 0
    while n_done < REPEATS or time.perf_counter() - began < SECONDS:
        n_done += 1
        for i, model in enumerate(models):
            speeds[i] = max(speeds[i], _speed(model, min(n_tokens, model.config.block_size // 2)))
    return speeds


def _speed(model: LanguageModel, n_tokens: int) -> float:
    cache = model.new_cache(batch_size=1)
    prompt = [i % model.config.vocab_size for i in range(max(1, n_tokens))]
    token = int(model.prefill(prompt, cache, 0).argmax())
    started = time.perf_counter()
    for _ in range(n_tokens):
        token = int(model.step([token], cache, [0]).argmax())
    return n_tokens / (time.perf_counter() - started)
