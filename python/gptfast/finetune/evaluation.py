"""Evaluate what is right or wrong: a class, or which of two answers is better."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from gptfast.data.batch import Batch
from gptfast.model.base import LanguageModel
from gptfast.train.config import RunConfig
from gptfast.train.distributed import World
from gptfast.train.evaluate import spread, sums_over
from gptfast.train.objective import Evaluation


def standard_error(share: float, n: int) -> float:
    """Return the standard error of a share of n observations."""
    return math.sqrt(share * (1 - share) / n)


def loss_and_accuracy(
    model: LanguageModel,
    n_val: int,
    make: Callable[[Sequence[int]], Batch],
    measure: Callable[[LanguageModel, Batch], tuple[float, float]],
    config: RunConfig,
    world: World,
    *,
    whole: bool,
    unit: str,
) -> Evaluation:
    """Return the mean loss of val items and the share of those that are right.

    make: returns the batch of some items, given their indices. measure: returns a batch's sum of
    losses, and how many items are right. unit: what an item is.
    """
    chosen = spread(n_val, None if whole else config.eval_windows)
    n, size = len(chosen), config.windows_at_a_time(world.size)
    batches = [make(chosen[i : i + size]) for i in range(0, n, size)]
    loss, accuracy = (total / n for total in sums_over(model, batches, measure, world))
    error = standard_error(accuracy, n)
    return Evaluation(
        loss,
        {"accuracy": accuracy, "accuracy_stderr": error},
        f"val loss {loss:.4f} nats/{unit}, {accuracy:.1%} right (standard error {error:.1%})",
    )
