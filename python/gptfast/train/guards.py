"""Guards against bad steps: losses and gradients that are not finite, and loss spikes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

from gptfast.model.base import LanguageModel

RECENT = 50
"""Number of past steps whose mean loss a new loss is compared with."""


class BadStep(Exception):
    """A step that must be undone. The message says what is wrong with it."""


def check_finite(loss: float, grad_norm: float, model: LanguageModel) -> None:
    """Raise BadStep if the loss or the gradient norm is not finite; name a tensor at fault."""
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
    """Raise BadStep if the loss is more than `spike` nats above the mean of the recent losses.

    Nothing is checked until RECENT losses are known, because early losses fall fast and jump.
    """
    if len(recent) >= RECENT and loss > fmean(recent) + spike:
        raise BadStep(
            f"loss is {loss:.3f}, more than {spike:g} nats above {fmean(recent):.3f}, the mean of "
            f"the {len(recent)} steps before"
        )
