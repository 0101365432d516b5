"""Report the ladder's results: a table on the terminal, JSON, Markdown, and the curves."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from gptfast.system.files import write_atomically, write_text_atomically

WHY_EQUAL_WEIGHTS = (
    "Why equal weights are not enough: the mean keeps which characters occurred, but not which one "
    "came last, and every further character dilutes the current one, which matters most. "
    "{comparison} Attention learns whom to weigh."
)


@dataclass(frozen=True)
class RungResult:
    """What a rung reached."""

    name: str
    idea: str
    parameters: int
    steps: int
    val_loss: float
    """Nats per character over the whole val split."""
    val_bits_per_byte: float
    tokens_per_second: float
    """Characters trained on per second of training, evaluations not counted."""
    seconds: float
    sample: str


def why_equal_weights_are_not_enough(results: Sequence[RungResult]) -> str:
    """Return why the averaging window fails, with its loss and the bigram's."""
    loss = {r.name: r.val_loss for r in results}
    comparison = (
        f"Here the averaging window reached {loss['average']:.2f} nats, and the bigram, which sees "
        f"the current character alone, {loss['bigram']:.2f}."
    )
    return WHY_EQUAL_WEIGHTS.format(comparison=comparison)


def print_table(results: Sequence[RungResult], console: Console) -> None:
    """Print the table, every rung's sample, and why averaging fails."""
    table = Table(title="val loss in nats per character, whole val split")
    for heading in ("rung", "parameters", "steps", "val loss", "bits/byte", "tokens/s", "seconds"):
        table.add_column(heading, justify="left" if heading == "rung" else "right")
    for r in results:
        table.add_row(
            r.name, f"{r.parameters:,}", f"{r.steps:,}", f"{r.val_loss:.4f}",
            f"{r.val_bits_per_byte:.3f}", f"{r.tokens_per_second:,.0f}", f"{r.seconds:.0f}",
        )  # fmt: skip
    console.print(table, soft_wrap=False)
    for r in results:
        text = f"\n--- {r.name}: {r.idea} ---\n{r.sample.strip()}"
        console.print(text)
    console.print(f"\n{why_equal_weights_are_not_enough(results)}")


def markdown(results: Sequence[RungResult]) -> str:
    """Return the table and the samples as Markdown."""
    lines = [
        "| rung | what it adds | parameters | steps | nats/char | bits/byte | tokens/s | seconds |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {r.name} | {r.idea} | {r.parameters:,} | {r.steps:,} | {r.val_loss:.4f} "
        f"| {r.val_bits_per_byte:.3f} | {r.tokens_per_second:,.0f} | {r.seconds:.0f} |"
        for r in results
    ]
    lines += ["", why_equal_weights_are_not_enough(results), ""]
    for r in results:
        indented = "\n".join(f"    {line}".rstrip() for line in r.sample.strip().split("\n"))
        lines += [f"### {r.name}", "", indented, ""]
    return "\n".join(lines)


def save(results: Sequence[RungResult], folder: Path) -> None:
    """Write ladder.json, ladder.md and ladder.png; the curves come from each metrics.jsonl."""
    content = json.dumps([asdict(r) for r in results], indent=2, ensure_ascii=False)
    write_text_atomically(folder / "ladder.json", content + "\n")
    write_text_atomically(folder / "ladder.md", markdown(results))
    write_atomically(folder / "ladder.png", lambda path: _plot(results, folder, path))


def _plot(results: Sequence[RungResult], folder: Path, path: Path) -> None:
    from matplotlib.figure import Figure  # imported late: takes half a second

    figure = Figure(figsize=(9, 5.5), layout="constrained")
    axes = figure.add_subplot()
    for r in results:
        lines = (folder / r.name / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        evaluations = [m for m in map(json.loads, lines) if "val_loss" in m and m["step"] > 0]
        # The legend has the loss of the whole split, as the table does; the curve ends near it.
        axes.plot(
            [m["step"] for m in evaluations],
            [m["val_loss"] for m in evaluations],
            marker=".",
            label=f"{r.name} ({r.parameters:,} parameters): {r.val_loss:.3f}",
        )
    axes.set_xscale("log")
    axes.set_xlabel("optimizer steps")
    axes.set_ylabel("val loss (nats per character)")
    axes.set_title("From bigram to GPT, one idea at a time")
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    figure.savefig(path, format="png", dpi=120)
