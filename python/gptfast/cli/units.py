"""Format numbers for people."""

from __future__ import annotations


def count(n: int, noun: str) -> str:
    """Return "1 step", "2 steps", "1,000 steps"."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def gib(n_bytes: float) -> str:
    """Return a number of bytes in MiB or GiB."""
    return f"{n_bytes / 2**30:.2f} GiB" if n_bytes >= 2**30 else f"{n_bytes / 2**20:.1f} MiB"


def duration(seconds: float) -> str:
    """Return a time in seconds, minutes, hours or days, whichever gives a small number."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 2 * 3600:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"


def flop_rate(flops: float) -> str:
    """Return operations per second in GFLOP/s or TFLOP/s."""
    return f"{flops / 1e12:,.1f} TFLOP/s" if flops >= 1e12 else f"{flops / 1e9:,.1f} GFLOP/s"
