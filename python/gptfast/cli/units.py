"""Numbers for people."""

from __future__ import annotations

_DAY = 86400.0


def count(n: int, noun: str) -> str:
    """Return "1 step", "2 steps", "1,000 steps"."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def number(value: float) -> str:
    """Return a number with three digits or more, without an exponent: "1.02", "1,020"."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def gib(n_bytes: float) -> str:
    """Return a number of bytes, in MiB or GiB."""
    return f"{n_bytes / 2**30:.2f} GiB" if n_bytes >= 2**30 else f"{n_bytes / 2**20:.1f} MiB"


def duration(seconds: float) -> str:
    """Return a time in the largest unit of which there are two or more."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 120:
        return f"{seconds:.1f} s" if seconds < 2 else f"{seconds:.0f} s"
    if seconds < 2 * 3600:
        return f"{seconds / 60:.1f} min"
    if seconds < 2 * _DAY:
        return f"{seconds / 3600:.1f} h"
    if seconds < 2 * 365 * _DAY:
        return f"{seconds / _DAY:,.1f} days"
    years = seconds / (365.25 * _DAY)
    return f"{years:.1f} years" if years < 10 else f"{years:,.0f} years"


def flop_rate(flops: float) -> str:
    """Return operations per second, in GFLOP/s or TFLOP/s."""
    return f"{flops / 1e12:,.1f} TFLOP/s" if flops >= 1e12 else f"{flops / 1e9:,.1f} GFLOP/s"


def flop_count(flops: float) -> str:
    """Return a number of operations, in GFLOP to EFLOP."""
    for prefix, size in (("E", 1e18), ("P", 1e15), ("T", 1e12)):
        if flops >= size:
            return f"{flops / size:,.1f} {prefix}FLOP"
    return f"{flops / 1e9:,.1f} GFLOP"
