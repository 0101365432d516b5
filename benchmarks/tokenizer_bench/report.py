"""From the results of the timed processes to the tables: medians, ratios of each round, targets."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from tokenizer_bench.entrants import OURS

Run = dict[str, Any]
"""A job's fields, its "group" and "round", and the worker's "reply"."""

Growth = dict[str, list[tuple[float, list[float], float]]]
"""For "vocabulary" and "text": (size, seconds of each round, peak memory in bytes), by size."""

UNITS: dict[str, Callable[[float, float], str]] = {
    "MB/s": lambda value, amount: f"{amount / value / 1e6:,.1f}",
    "ns": lambda value, amount: f"{value / amount * 1e9:,.0f}",
    "s": lambda value, amount: f"{value:,.2f}",
    "MB": lambda value, amount: f"{value / 1e6:,.0f}",
}


@dataclass(frozen=True)
class Row:
    """One thing that was measured: a number of each library in each round, smaller is better."""

    title: str
    unit: str
    """A key of UNITS: what the samples, seconds or bytes of memory, are shown in."""
    samples: dict[str, list[float]]
    targets: dict[str, float] = field(default_factory=dict)
    """How many times better than that peer ours is to be."""
    amount: float = 1.0
    """What is divided by the samples: bytes for MB/s, calls for ns."""
    ours: str = OURS

    def ratios(self, peer: str) -> list[float]:
        """How many times better ours was, round by round; empty if one of them has no samples."""
        ours, theirs = self.samples.get(self.ours, []), self.samples.get(peer, [])
        # Whoever is slow is asked in the first round alone.
        return [b / a for a, b in zip(ours, theirs, strict=False)]


def growth_of(runs: list[Run]) -> Growth:
    trained = [run for run in runs if run["group"] == "growth" and "seconds" in run["reply"]]
    kinds: dict[str, Callable[[Run], tuple[bool, float]]] = {
        "vocabulary": lambda run: (run["fraction"] == 1, run["vocab_size"]),
        "text": lambda run: (run["vocab_size"] == 32_768, run["reply"]["amount"]),
    }
    table = {}
    for kind, belongs in kinds.items():
        chosen = [(belongs(run)[1], run["reply"]) for run in trained if belongs(run)[0]]
        table[kind] = [
            (
                size,
                [reply["seconds"][0] for s, reply in chosen if s == size],
                median(reply["rss_peak"] for s, reply in chosen if s == size),
            )
            for size in sorted({size for size, _ in chosen})
        ]
    return table


def print_rows(title: str, rows: Iterable[Row], console: Console) -> None:
    table = Table(title=title, title_justify="left", title_style="bold", pad_edge=False)
    table.add_column("", no_wrap=True)
    table.add_column("median", justify="right", no_wrap=True)
    table.add_column("best .. worst", justify="right", no_wrap=True)
    table.add_column("ratio of ours", justify="right", no_wrap=True)
    table.add_column("target", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for row in rows:
        table.add_section()
        table.add_row(f"{row.title}, {row.unit}", style="bold")
        for who, values in row.samples.items():
            show = UNITS[row.unit]
            middle, best, worst = (show(f(values), row.amount) for f in (median, min, max))
            ratios = row.ratios(who) if who != row.ours else []
            goal = row.targets.get(who)
            table.add_row(
                f"  {who}",
                middle,
                f"{best} .. {worst}",
                _spread(ratios),
                f"{goal:g}" if goal else "",
                _verdict(ratios, goal),
            )
    console.print(table)


def of_linear(sizes: list[tuple[float, list[float], float]]) -> list[float]:
    """The time at each size, divided by what it were if it grew from the first as the size does."""
    if not sizes:
        return []
    first_size, first_seconds, _ = sizes[0]
    per_size = median(first_seconds) / first_size
    return [median(seconds) / (per_size * size) for size, seconds, _ in sizes]


def of_step(sizes: list[tuple[float, list[float], float]]) -> list[float]:
    """The same from each size to the next; 1 for the first. Later sizes hide no jump here."""
    steps = [of_linear(list(pair))[1] for pair in itertools.pairwise(sizes)]
    return [1.0, *steps] if sizes else []


def print_growth(growth: Growth, console: Console) -> None:
    units = {"vocabulary": "tokens", "text": "bytes"}
    for kind, sizes in growth.items():
        title = f"train as the {kind} grows"
        table = Table(title=title, title_justify="left", title_style="bold", pad_edge=False)
        columns = ("s", "best .. worst", "peak MB", "time, 1.00 is linear", "step")
        for column in (units[kind], *columns):
            table.add_column(column, justify="right", no_wrap=True)
        rows = zip(sizes, of_linear(sizes), of_step(sizes), strict=True)
        for (size, seconds, memory), growing, step in rows:
            table.add_row(
                f"{size:,.0f}",
                f"{median(seconds):.2f}",
                f"{min(seconds):.2f} .. {max(seconds):.2f}",
                f"{memory / 1e6:,.0f}",
                f"{growing:.2f}",
                f"{step:.2f}",
            )
        console.print(table)


def print_targets(rows: Iterable[Row], growth: Growth, console: Console) -> None:
    """Every target on one line."""
    table = Table(title="targets", title_justify="left", title_style="bold", pad_edge=False)
    for column in ("", "against", "target", "reached", ""):
        table.add_column(column, no_wrap=True)
    for row in rows:
        for peer, goal in row.targets.items():
            ratios = row.ratios(peer)
            reached = _spread(ratios) or "not measured"
            table.add_row(row.title, peer, f"{goal:g}", reached, _verdict(ratios, goal))
    for kind, sizes in growth.items():
        if len(sizes) > 1:
            for what, most in (
                ("from first to last", of_linear(sizes)[-1]),
                ("the worst step", max(of_step(sizes)[1:])),
            ):
                verdict = "met" if most <= 1 else "missed"
                name = f"train time as the {kind} grows, {what}"
                table.add_row(name, "linear", "at most 1", f"{most:.2f}", verdict)
    console.print(table)


def print_limits(limits: dict[str, float], console: Console) -> None:
    """What the machine can do at most, on one thread."""
    for what, value in limits.items():
        name = what.removesuffix("_bytes_per_second").removesuffix("_seconds").replace("_", " ")
        shown = f"{value / 1e9:.1f} GB/s" if value > 1 else f"{value * 1e6:.2f} µs"
        console.print(f"  {name}: {shown}")


def print_first(runs: Iterable[Run], limits: dict[str, float], console: Console) -> None:
    """What the first calls took of the system: new pages, and the time that they cost."""
    title = "the first call: medians of its page faults, and what they cost by the limits"
    table = Table(title=title, title_justify="left", title_style="bold", pad_edge=False)
    for column in ("", "MB/s", "worst", "faults", "MB in huge pages", "system s", "faults' share"):
        table.add_column(column, justify="right" if column else "left", no_wrap=True)
    groups: dict[str, list[Run]] = {}
    for run in runs:
        if "seconds" in run["reply"]:
            groups.setdefault(f"{run['case']}, {run['who']}", []).append(run["reply"])
    for name, replies in groups.items():
        speeds = [reply["amount"] / reply["seconds"][0] / 1e6 for reply in replies]
        used = {
            what: median(reply["first"][what] for reply in replies) for what in replies[0]["first"]
        }
        n_huge = used["huge_bytes"] / (2 << 20)
        cost = n_huge * limits.get("fault_2mb_seconds", 0.0)
        cost += max(0.0, used["faults"] - n_huge) * limits.get("fault_4kb_seconds", 0.0)
        seconds = median(reply["seconds"][0] for reply in replies)
        table.add_row(
            name,
            f"{median(speeds):,.1f}",
            f"{min(speeds):,.1f}",
            f"{used['faults']:,.0f}",
            f"{used['huge_bytes'] / 1e6:,.0f}",
            f"{used['system_seconds']:.3f}",
            f"{cost / seconds:.0%}" if limits else "",
        )
    console.print(table)


def training_notes(runs: list[Run], folder: Path) -> list[str]:
    """What the trained vocabularies have in common: how well they compress, and their merges."""
    compression = {
        run["who"]: f"{run['who']} {run['reply']['bytes_per_token']:.3f}"
        for run in runs
        if run["group"] == "train" and run["pattern"] == "gpt2" and "seconds" in run["reply"]
    }
    notes = [f"bytes per token of a sample: {', '.join(compression.values())}"]
    merges = {
        path.stem.removeprefix("merges-gpt2-"): json.loads(path.read_text())
        for path in sorted(folder.glob("merges-gpt2-*.json"))
    }
    for peer in merges.keys() - {OURS} if OURS in merges else ():
        ours, theirs = merges[OURS], merges[peer]
        equal = sum(a == b for a, b in zip(ours, theirs, strict=False))
        common = len({(a, b) for a, b in ours} & {(a, b) for a, b in theirs})
        notes.append(
            f"of {len(theirs):,} merges of {peer}, {equal:,} are ours at the same place, "
            f"{common:,} are ours at any"
        )
    return notes


def _spread(ratios: list[float]) -> str:
    return f"{median(ratios):.2f} ({min(ratios):.2f} .. {max(ratios):.2f})" if ratios else ""


def _verdict(ratios: list[float], goal: float | None) -> str:
    if not ratios or goal is None:
        return ""
    return "met" if median(ratios) >= goal else "missed"
