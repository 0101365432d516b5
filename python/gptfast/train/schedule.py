"""Learning rate schedules."""

from __future__ import annotations

import math
from typing import Literal

Schedule = Literal["linear", "cosine", "wsd"]


def lr_factor(
    step: int,
    *,
    schedule: Schedule,
    warmup_steps: int,
    max_steps: int,
    decay_fraction: float,
    final: float,
) -> float:
    """Return the factor of the peak learning rate at `step`; step 0 is the first.

    The factor rises linearly over the warm-up. Then it decays, and would reach `final` one step
    after the last. 'linear' decays linearly ("Straight to Zero", Bergsma et al., 2025), 'cosine'
    along half a cosine (Loshchilov and Hutter, 2017). 'wsd', warmup-stable-decay, stays at 1 until
    the last `decay_fraction` of the steps ("MiniCPM", Hu et al., 2024), and then decays linearly.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    start = warmup_steps
    if schedule == "wsd":
        start = max(start, round(max_steps * (1 - decay_fraction)))
    if step < start:
        return 1.0
    done = (step - start) / max(1, max_steps - start)
    left = (1 + math.cos(math.pi * done)) / 2 if schedule == "cosine" else 1 - done
    return final + (1 - final) * left
