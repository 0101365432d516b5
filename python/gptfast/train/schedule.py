"""The learning rate over time."""

from __future__ import annotations


def lr_factor(step: int, warmup_steps: int, max_steps: int) -> float:
    """What the peak learning rate is multiplied with at `step` (0 is the first).

    A linear rise over the warm-up, then a linear fall that would reach 0 one step after the last.
    Linear decay to zero: "Straight to Zero" (Bergsma et al., 2025).
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    return (max_steps - step) / max(1, max_steps - warmup_steps)
