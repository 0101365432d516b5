"""What memory a function takes, by PyTorch's profiler."""

from __future__ import annotations

from collections.abc import Callable

import torch


def largest_and_peak(function: Callable[[], object]) -> tuple[int, int]:
    """Run it; return the bytes of its largest allocation, and the most that it held at a time."""
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        function()
    sizes = [
        event.nbytes()
        for event in sorted(profile.profiler.kineto_results.events(), key=lambda e: e.start_ns())
        if event.name() == "[memory]"
    ]
    held = peak = 0
    for size in sizes:
        held += size
        peak = max(peak, held)
    return max(sizes), peak
