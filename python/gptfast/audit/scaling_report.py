"""Show what the sizes of a scaling audit reached: a table, a picture, JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from statistics import fmean, stdev

import numpy as np
from rich.console import Console
from rich.table import Table

from gptfast.audit.scaling import Run, Scaling
from gptfast.cli.units import number
from gptfast.system.files import write_atomically, write_text_atomically

_BLUE, _ORANGE = "#0072b2", "#d55e00"  # of Okabe and Ito's palette


def print_scaling(result: Scaling, console: Console) -> None:
    """Print the means over the seeds of each size, a sample of each, and the law."""
    table = Table(title="means over the seeds", title_justify="left", title_style="bold")
    table.add_column("size")
    groups = by_size(result)
    for runs in groups:
        table.add_column(str(runs[0].size), justify="right", overflow="fold")
    table.add_column("val text", justify="right")
    text = result.runs[0].writing
    of_text = {
        "seq-rep-4": f"{text.val_seq_rep_4:.3f}",
        "known words": f"{text.val_known_words:.3f}",
    }
    columns = [_column(runs) for runs in groups]
    for name in columns[0]:
        table.add_row(name, *(column[name] for column in columns), of_text.get(name, ""))
    console.print(table, soft_wrap=False)
    for runs in groups:
        sample = runs[0].writing.sample.strip()
        console.print(f"\n--- size {runs[0].size} ---\n{sample}", markup=False)
    console.print()
    for line in remarks(result):
        console.print(line, markup=False)


def by_size(result: Scaling) -> list[list[Run]]:
    """Return the runs of each size, the smallest first, the target last."""
    sizes = sorted({run.size for run in result.runs})
    grouped = [[run for run in result.runs if run.size == size] for size in sizes]
    return [*grouped, [result.law.target]] if result.law else grouped


def _column(runs: list[Run]) -> dict[str, str]:
    """Return what to show of one size."""

    def mean(value: Callable[[Run], float]) -> float:
        return fmean(map(value, runs))

    losses = [run.val_loss for run in runs]
    first = runs[0]
    return {
        "parameters": f"{first.parameters:,}",
        "tokens (M)": number(first.tokens / 1e6),
        "epochs": f"{first.epochs:.1f}",
        "TFLOP": number(first.compute / 1e12),
        "val loss": f"{fmean(losses):.4f}",
        "± of seeds": f"{stdev(losses):.4f}" if len(losses) > 1 else "",
        "bits/byte": f"{mean(lambda run: run.bits_per_byte):.3f}",
        "tokens/s": f"{mean(lambda run: run.tokens_per_second):,.0f}",
        "memory (MiB)": number(mean(lambda run: run.memory) / 2**20),
        "planned (MiB)": number(first.planned_memory / 2**20),
        "seq-rep-4": f"{mean(lambda run: run.writing.seq_rep_4):.3f}",
        "known words": f"{mean(lambda run: run.writing.known_words):.3f}",
    }


def remarks(result: Scaling) -> list[str]:
    """Return what the numbers say, and what they can't, in sentences."""
    lines = []
    repeated = [run for run in result.runs if run.epochs > 1]
    if repeated:
        lines.append(
            f"size {repeated[0].size} and larger ones saw the train part more than once: repeated "
            f"data teaches less than new data"
        )
    if result.law is None:
        seeds = len({run.seed for run in result.runs})
        if seeds < 3:
            lines.append(f"{seeds} seed of each size: differences between neighbours may be chance")
        return lines
    law, prediction, target = result.law.law, result.law.prediction, result.law.target
    lines.append(
        f"L = {law.floor:.3f} + {law.scale:.4g} C^-{law.exponent:.4f}, C in FLOPs of training"
    )
    lines.append(
        f"size {target.size} was predicted to reach {prediction.loss:.4f} nats per token "
        f"({prediction.coverage:.0%} interval {prediction.low:.4f} to {prediction.high:.4f}). "
        f"It reached {target.val_loss:.4f}: {'inside' if result.law.is_inside else 'OUTSIDE'} the "
        f"interval, {result.law.error:+.1%}"
    )
    return lines


def save(result: Scaling, folder: Path) -> None:
    """Write scaling.json and scaling.png."""
    content = json.dumps(result.to_json(), indent=2, ensure_ascii=False)
    write_text_atomically(folder / "scaling.json", content + "\n")
    write_atomically(folder / "scaling.png", lambda path: _plot(result, path))


def _plot(result: Scaling, path: Path) -> None:
    from matplotlib.figure import Figure  # imported late: takes half a second

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(
        [run.compute for run in result.runs], [run.val_loss for run in result.runs],
        "o", color=_BLUE, alpha=0.7, label="runs",
    )  # fmt: skip
    for runs in by_size(result):
        axes.annotate(
            f"{runs[0].parameters:,}", (runs[0].compute, min(r.val_loss for r in runs)),
            xytext=(0, -12), textcoords="offset points", ha="center", va="top", fontsize=8,
        )  # fmt: skip
    if result.law is not None:
        law, prediction = result.law.law, result.law.prediction
        compute = np.geomspace(result.runs[0].compute, prediction.compute, 100)
        axes.plot(compute, [law(c) for c in compute], color=_BLUE, label="fitted to the runs")
        axes.errorbar(
            [prediction.compute], [prediction.loss],
            [[prediction.loss - prediction.low], [prediction.high - prediction.loss]],
            fmt="none", color=_ORANGE, capsize=5, label=f"predicted, {prediction.coverage:.0%}",
        )  # fmt: skip
        axes.plot(
            [prediction.compute], [result.law.target.val_loss], "*", color=_ORANGE, markersize=12,
            label="reached",
        )  # fmt: skip
    axes.set_xscale("log")
    axes.set_xlabel("compute of training (FLOPs); the labels are parameters")
    axes.set_ylabel("val loss (nats per token)")
    axes.margins(y=0.15)
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    figure.savefig(path, format="png", dpi=120)
