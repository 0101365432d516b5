"""What must not reach the weights: losses and gradients that are not finite, or that leap."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

from gptfast.model.base import LanguageModel

RECENT = 50
"""Steps whose mean loss a loss is compared with."""


class BadStep(Exception):
    """A step that must be undone; says what was wrong with it."""


def check_finite(loss: float, grad_norm: float, model: LanguageModel) -> None:
    """Raise BadStep before a NaN or an infinity reaches the weights; say where it came from."""
    if math.isfinite(loss) and math.isfinite(grad_norm):
        return
    broken = [n for n, p in model.named_parameters() if not p.isfinite().all()]
    gradients = [
        n for n, p in model.named_parameters() if p.grad is not None and not p.grad.isfinite().all()
    ]
    where = (
        f"the weights {broken[0]} are not finite" if broken
        else f"{len(gradients)} gradients are not finite, the first is that of {gradients[0]}"
        if gradients
        else "weights and gradients are finite"
    )  # fmt: skip
    raise BadStep(f"loss is {loss}, gradient norm {grad_norm}; {where}")


def check_spike(loss: float, recent: Sequence[float], spike: float) -> None:
    """Raise BadStep if the loss is more than `spike` nats above the mean of the recent ones.

    Only when RECENT losses are known: at the start they fall fast, and leap as well.
    """
    if len(recent) >= RECENT and loss > fmean(recent) + spike:
        raise BadStep(
            f"loss is {loss:.3f}, more than {spike:g} nats above {fmean(recent):.3f}, the mean of "
            f"the {len(recent)} steps before"
        )
