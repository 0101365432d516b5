"""After pytest-benchmark's own table: what each case means in units a reader compares."""

from __future__ import annotations

from typing import Any


def pytest_terminal_summary(terminalreporter: Any, config: Any) -> None:
    session = getattr(config, "_benchmarksession", None)
    measured = [b for b in getattr(session, "benchmarks", []) if "unit" in b.extra_info]
    if not measured:
        return
    terminalreporter.section("throughput (median, and the quartiles around it)")
    for b in measured:
        amount, unit = b.extra_info["amount"], b.extra_info["unit"]
        slow, median, fast = (amount / t for t in (b.stats.q3, b.stats.median, b.stats.q1))
        terminalreporter.write_line(
            f"{b.name:60} {median:14,.1f} {unit}/s   [{slow:,.1f} .. {fast:,.1f}]"
        )
