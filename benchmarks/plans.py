"""What `gptfast plan` predicts for a preset, and what the run then takes: one after the other.

`python benchmarks/plans.py shakespeare-20s shakespeare-4min --corpus tinyshakespeare.txt`. The time
of the run counts as the prediction does: to its last evaluation, without the evaluation of the
whole split after it.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from gptfast.cli import cli
from gptfast.model.device import resolve_device
from gptfast.plan.__main__ import CHARACTERS, PROBE_SECONDS
from gptfast.train.config import load_preset
from gptfast.train.history import read_run
from gptfast.train.plan import probe, with_vocabulary
from gptfast.train.precision import resolve_dtype
from gptfast.train.pretrain import pretrain
from saving import save_results

TOLERANCE = 0.15


@dataclass(frozen=True)
class Config:
    """Which presets, on which text."""

    presets: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Names of presets."""
    corpus: str | None = None
    """The text; that of each preset unless given."""
    json: Path | None = None
    """File for the results."""


@dataclass(frozen=True)
class Outcome:
    """A prediction and what came of it, in seconds."""

    preset: str
    predicted: float
    real: float
    ratio: float
    """Predicted / real."""
    met: bool


def main(argv: Sequence[str]) -> int:
    """Predict and run each preset, print, save. Returns 0."""
    config = cli.parse(Config, argv, "benchmarks/plans.py")
    outcomes = []
    for name in config.presets:
        o = outcome(name, config.corpus)
        outcomes.append(o)
        verdict = "met" if o.met else "missed"
        print(
            f"{name}: {o.predicted:.1f} s predicted, {o.real:.1f} s real, {o.ratio:.2f} {verdict}"
        )
        if config.json:
            result = {
                "plans": [asdict(o) for o in outcomes],
            }
            save_results(config.json, result)
    return 0


def outcome(name: str, corpus: str | None) -> Outcome:
    """Predict a preset's time as `gptfast plan` does, then train it into a folder that goes."""
    with tempfile.TemporaryDirectory() as folder:
        config = replace(load_preset(name), out=Path(folder) / "run")
        config = replace(config, corpus=corpus or config.corpus)
        if config.dtype == "auto":
            config = replace(config, dtype=resolve_dtype(resolve_device(config.device)).dtype)
        predicted = probe(with_vocabulary(config, CHARACTERS), PROBE_SECONDS).seconds
        if pretrain(config, "benchmarks/plans.py", Console(quiet=True)) is None:
            raise KeyboardInterrupt  # which it took for itself
        real = read_run(config.out).evaluations[-1]["seconds"]
    ratio = predicted / real
    return Outcome(name, predicted, real, ratio, abs(ratio - 1) <= TOLERANCE)


if __name__ == "__main__":
    sys.exit(cli.run(main))
