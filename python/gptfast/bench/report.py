"""What was measured as Markdown, JSON and pictures."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

from gptfast.bench.measure import Measurement
from gptfast.bench.verify import Verdict
from gptfast.bench.workloads import COPY, OURS, Workload
from gptfast.system.files import write_atomically, write_text_atomically
from gptfast.system.machine import commit, hardware, versions

Measured = list[tuple[Workload, list[Measurement]]]


def machine() -> dict[str, str]:
    """Return what the figures depend on: the date, the versions, the commit, the hardware.

    What can't be known here is left out.
    """
    about = {"date": date.today().isoformat(), **versions(), "commit": commit(), **hardware()}
    return {name: str(value) for name, value in about.items() if value}


def target_lines(workload: Workload, measurements: Sequence[Measurement], copy: float) -> list[str]:
    """Say for each target of a workload whether it was met; `copy` is the machine's in GB/s."""
    timings = {m.implementation: m.timing for m in measurements}
    ours = timings.get(OURS)
    lines = []
    for peer, least in workload.targets.items():
        theirs = timings.get(peer)
        their_speed = copy if peer == COPY else theirs.speed if theirs else 0.0
        if ours is None or their_speed == 0:
            lines.append(f"{least:.2f} x {peer}: not measured")
        else:
            ratio = ours.speed / their_speed
            lines.append(f"{least:.2f} x {peer}: {ratio:.2f} {_verdict(ratio >= least)}")
    for peer, most in workload.memory_targets.items():
        theirs = timings.get(peer)
        if ours is None or theirs is None:
            lines.append(f"{most:.2f} x the memory of {peer}: not measured")
        else:
            share = ours.peak_bytes / theirs.peak_bytes
            met = _verdict(share <= most)
            lines.append(f"{most:.2f} x the memory of {peer}: {share:.3f} {met}")
    return lines


def summary(lines: Sequence[str]) -> str:
    """Count what `target_lines` said of all workloads."""
    missed = sum("missed" in line for line in lines)
    not_measured = sum("not measured" in line for line in lines)
    met = len(lines) - missed - not_measured
    return f"{met} of {len(lines)} targets met, {missed} missed, {not_measured} not measured"


def _verdict(met: bool) -> str:
    return "met" if met else "**missed**"


def markdown(about: dict[str, str], verdicts: Sequence[Verdict], measured: Measured) -> str:
    """Return the whole report."""
    lines = ["# The ops on a GPU", "", ", ".join(f"{k} {v}" for k, v in about.items()), ""]
    lines += _verified(verdicts)
    timings = [m.timing for _, ms in measured for m in ms if m.implementation == COPY]
    copy = timings[0].speed if timings and timings[0] else 0.0
    judged = []
    for (op, passes), group in _groups(measured).items():
        names = list(dict.fromkeys(m.implementation for _, ms in group for m in ms))
        unit = group[0][0].unit
        lines += [f"## {op}, {passes}", ""]
        lines += [
            f"{unit} (median; 20 to 80 % of the calls), peak memory in MB, and what the host takes "
            "to start a call in µs.",
            "",
        ]
        lines += [_row(["shape", *names, "to reach"]), _row(["---", *["---:"] * len(names), "---"])]
        notes: dict[str, int] = {}
        for workload, ms in group:
            by_name = {m.implementation: m for m in ms}
            cells = [_cell(by_name.get(name), notes) for name in names]
            targets = target_lines(workload, ms, copy)
            judged += targets
            lines.append(_row([workload.title, *cells, "; ".join(targets)]))
        lines += ["", *(f"[{n}] {reason}  " for reason, n in notes.items()), ""]
    return "\n".join([*lines, summary(judged)]) + "\n"


def _verified(verdicts: Sequence[Verdict]) -> list[str]:
    wrong = [v for v in verdicts if not v.is_right]
    lines = [
        "## Right?",
        "",
        f"{len(verdicts) - len(wrong)} of {len(verdicts)} checks passed: the largest error, over "
        "the output and every gradient, as a share of what is allowed, which is twice the error of "
        "PyTorch's own op and one rounding of the largest value (in float32 1e-5 of it).",
        "",
        _row(["op", "dtype", "checks", "passed", "worst share", "where"]),
        _row(["---", "---", "---:", "---:", "---:", "---"]),
    ]
    groups: dict[tuple[str, str], list[Verdict]] = {}
    for v in verdicts:
        groups.setdefault((v.op, v.dtype), []).append(v)
    for (op, dtype), group in groups.items():
        worst = max(group, key=lambda v: (not v.is_right, v.ratio))
        passed = sum(v.is_right for v in group)
        lines.append(
            _row([op, dtype, str(len(group)), str(passed), f"{worst.ratio:.2f}", worst.title])
        )
    lines += ["", *(f"{v}  " for v in wrong), ""]
    return lines


def _groups(measured: Measured) -> dict[tuple[str, str], Measured]:
    groups: dict[tuple[str, str], Measured] = {}
    for workload, ms in measured:
        groups.setdefault((workload.op, workload.passes.value), []).append((workload, ms))
    return groups


def _cell(m: Measurement | None, notes: dict[str, int]) -> str:
    if m is None:
        return ""
    if m.reason is not None:
        return f"[{notes.setdefault(m.reason, len(notes) + 1)}]"
    t = m.timing
    if t is None:
        return "ran"
    slow, fast = (t.speed * t.milliseconds / x for x in (t.milliseconds_80, t.milliseconds_20))
    return (
        f"{t.speed:,.0f} ({slow:,.0f} to {fast:,.0f}), {t.peak_bytes / 1e6:,.0f}, "
        f"{t.host_microseconds:,.0f}"
    )


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def save(
    folder: Path, about: dict[str, str], verdicts: Sequence[Verdict], measured: Measured
) -> list[Path]:
    """Write gpu.json and gpu.md; return their paths. What is no finite number is null."""
    content: dict[str, Any] = {
        "machine": about,
        "verification": [asdict(v) for v in verdicts],
        "measurements": [asdict(m) for _, ms in measured for m in ms],
    }
    paths = [folder / "gpu.json", folder / "gpu.md"]
    text = json.dumps(_without_infinities(content), indent=1, allow_nan=False)
    write_text_atomically(paths[0], text + "\n")
    write_text_atomically(paths[1], markdown(about, verdicts, measured))
    return paths


def _without_infinities(x: Any) -> Any:
    if isinstance(x, dict):
        return {name: _without_infinities(value) for name, value in x.items()}
    if isinstance(x, list | tuple):
        return [_without_infinities(value) for value in x]
    return None if isinstance(x, float) and not math.isfinite(x) else x


def save_plot(folder: Path, about: dict[str, str], measured: Measured) -> list[Path]:
    """Write gpu.png if anything was timed and matplotlib is installed; return its path if so."""
    if all(m.timing is None for _, ms in measured for m in ms):
        return []
    try:
        import matplotlib  # noqa: F401
    except ImportError:  # a plain checkout has what the machine has
        return []
    write_atomically(folder / "gpu.png", lambda path: plot(about, measured, path))
    return [folder / "gpu.png"]


def plot(about: dict[str, str], measured: Measured, path: Path) -> None:
    """Draw one panel for each op and pass: speed by shape, a line for each implementation."""
    from matplotlib.figure import Figure

    groups = {key: group for key, group in _groups(measured).items() if key[0] != "copy"}
    columns = 2
    rows = -(-len(groups) // columns)
    figure = Figure(figsize=(7 * columns, 4 * rows), layout="constrained")
    figure.suptitle(f"{about.get('gpu', 'no GPU')}, {about['date']}, torch {about['torch']}")
    for i, ((op, passes), group) in enumerate(groups.items()):
        axes = figure.add_subplot(rows, columns, i + 1)
        titles = [workload.title for workload, _ in group]
        names = dict.fromkeys(m.implementation for _, ms in group for m in ms)
        for name in names:
            timings = [
                next((m.timing for m in ms if m.implementation == name), None) for _, ms in group
            ]
            values = [float("nan") if t is None else t.speed for t in timings]
            width = 2.5 if name == OURS else 1.2
            axes.plot(values, marker="o", label=name, linewidth=width)
        axes.set_title(f"{op}, {passes}")
        axes.set_ylabel(group[0][0].unit)
        axes.set_ylim(bottom=0)
        axes.set_xticks(range(len(titles)), titles, rotation=35, ha="right", fontsize=7)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    figure.savefig(path, format="png", dpi=110)
