"""`gptfast compare RUN RUN...`: compare settings, results and samples of runs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from gptfast.cli import cli
from gptfast.cli.printing import lossy_output
from gptfast.compare.report import differences, side_by_side
from gptfast.errors import MissingFileError, UserError
from gptfast.model.folder import load_model
from gptfast.sample.generate import write_sample
from gptfast.train.history import Run, check_comparable, read_run


@dataclass(frozen=True)
class CompareConfig:
    """Which runs to compare. `gptfast report` draws their curves."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Two or more model folders that training made."""
    sample_tokens: int = 100
    """Length of each run's sample, in tokens; 0 for none."""
    seed: int = 1337
    """Seed of the samples."""

    def __post_init__(self) -> None:
        if len(self.runs) < 2:
            raise UserError(f"{len(self.runs)} runs given: expected two or more folders to compare")
        if self.sample_tokens < 0:
            raise UserError(f"sample_tokens is {self.sample_tokens}: expected 0 or more")


def main(argv: Sequence[str]) -> int:
    """Print the differences and samples. Return 0."""
    config = cli.parse(CompareConfig, argv, "python -m gptfast.compare")
    runs = [read_run(folder) for folder in config.runs]
    check_comparable(runs)
    with lossy_output():
        console = cli.console()
        console.print(differences(runs), soft_wrap=False)
        if config.sample_tokens and not runs[0].reads_images:
            console.print(side_by_side([(run.name, _sample(run, config)) for run in runs]))
    return 0


def _sample(run: Run, config: CompareConfig) -> str:
    try:
        model, tokenizer = load_model(run.folder)
    except MissingFileError:
        return "(no weights yet)"
    return write_sample(model, tokenizer, config.sample_tokens, config.seed).strip()


if __name__ == "__main__":
    sys.exit(cli.run(main))
