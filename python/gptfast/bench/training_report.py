"""What training on a GPU measured, as Markdown, JSON and a picture."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from gptfast.system.files import write_atomically, write_text_atomically

TARGET = 1.25
"""To reach: so many times nanoGPT's compiled tokens/s on GPT-2 124M."""
THEIRS, OURS = "nanoGPT", "gptfast"


@dataclass(frozen=True)
class Speed:
    """How fast one implementation trains GPT-2 124M."""

    implementation: str
    kernels: str
    compiled: bool
    loss: float | None = None
    """After the first steps, on one batch."""
    tokens_per_second: float | None = None
    """Median; None in a rehearsal, and where `reason` says why there is none."""
    peak_bytes: int | None = None
    reason: str | None = None


@dataclass
class Curve:
    """How a run went."""

    steps: list[int] = field(default_factory=list)
    val_losses: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    """Training alone, without evaluations."""
    first_step_seconds: float = 0.0
    """The part of them in which the model is compiled for training."""
    parameters: int = 0
    tokens_per_second: float | None = None
    """From the second step on."""
    sample: str = ""


@dataclass
class Report:
    """All that was measured, written after every part of it."""

    machine: dict[str, str]
    speeds: list[Speed] = field(default_factory=list)
    shakespeare: Curve | None = None
    not_run: list[str] = field(default_factory=list)
    """What had not begun when the time limit was reached."""

    def save(self, folder: Path) -> None:
        """Write train.json and train.md."""
        write_text_atomically(folder / "train.json", json.dumps(asdict(self), indent=1) + "\n")
        write_text_atomically(folder / "train.md", self.markdown())

    def markdown(self) -> str:
        """Return the report as a page."""
        lines = ["# Training on a GPU", "", _listed(self.machine), "", "## GPT-2 124M, T1024", ""]
        lines += ["| implementation | kernels | compiled | tokens/s | peak memory, GB | |"]
        lines += ["|---|---|---|---:|---:|---|"]
        for s in self.speeds:
            speed = "ran" if s.tokens_per_second is None else f"{s.tokens_per_second:,.0f}"
            memory = "" if s.peak_bytes is None else f"{s.peak_bytes / 1e9:.2f}"
            cells = [s.implementation, s.kernels, "yes" if s.compiled else "no"]
            cells += ["" if s.reason else speed, memory, s.reason or ""]
            lines.append(f"| {' | '.join(cells)} |")
        lines += ["", self._target(), ""]
        if self.shakespeare is not None:
            lines += ["## nanogpt-shakespeare", "", _described(self.shakespeare), ""]
        lines += [f"Not run, time limit reached: {what}  " for what in self.not_run]
        return "\n".join(lines).rstrip() + "\n"

    def _target(self) -> str:
        def best(implementation: str) -> float | None:
            speeds = [s for s in self.speeds if s.implementation == implementation and s.compiled]
            return max((s.tokens_per_second or 0 for s in speeds), default=0) or None

        ours, theirs = best(OURS), best(THEIRS)
        if ours is None or theirs is None:
            return f"To reach {TARGET} x nanoGPT compiled: not measured."
        verdict = "met" if ours / theirs >= TARGET else "**missed**"
        return f"To reach {TARGET} x nanoGPT compiled: {ours / theirs:.2f} {verdict}."


def _described(curve: Curve) -> str:
    best = min(range(len(curve.steps)), key=lambda i: curve.val_losses[i])
    speed = f", then {curve.tokens_per_second:,.0f} tokens/s" if curve.tokens_per_second else ""
    lines = [
        f"{curve.parameters:,} parameters; lowest val loss {curve.val_losses[best]:.4f} at step "
        f"{curve.steps[best]}; {curve.steps[-1]} steps in {curve.seconds[-1]:.0f} s without "
        f"evaluations, {curve.first_step_seconds:.0f} s of it the first, which compiles{speed}. "
        f"nanoGPT publishes 1.4697.",
        "",
        "| step | val loss |",
        "|---:|---:|",
        *(f"| {s} | {v:.4f} |" for s, v in zip(curve.steps, curve.val_losses, strict=True)),
        "",
        f"After step {curve.steps[-1]} it writes:",
        "",
        *(f"    {line}".rstrip() for line in curve.sample.strip().splitlines()),
    ]
    return "\n".join(lines)


def _listed(about: dict[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in about.items())


def plot(curve: Curve, path: Path) -> None:
    """Draw the val losses, where matplotlib is installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:  # a plain checkout has what the machine has
        return
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(curve.steps, curve.val_losses, marker=".")
    axes.axhline(1.4697, color="gray", linestyle="--", label="nanoGPT's published val loss")
    axes.set_xlabel("steps")
    axes.set_ylabel("val loss (nats per character)")
    axes.grid(alpha=0.3)
    axes.legend()
    write_atomically(path, lambda temporary: figure.savefig(temporary, format="png", dpi=120))
