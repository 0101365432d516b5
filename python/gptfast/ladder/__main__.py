"""`python -m gptfast.ladder`: train every rung on the same text and compare them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from gptfast import _cpu, cli
from gptfast.errors import UserError
from gptfast.ladder.report import RungResult, print_table, save
from gptfast.ladder.rungs import Rung, rung_config, rungs
from gptfast.model.folder import load_model
from gptfast.sample.generate import write_sample
from gptfast.train.run import delete_checkpoints, delete_model, run

MODULE = "gptfast.ladder"
SAMPLE_CHARACTERS = 200


@dataclass(frozen=True)
class LadderConfig:
    """Which text to climb on, and where the results go."""

    corpus: str = "shakespeare"
    """'shakespeare', 'tinyshakespeare', or the path of a text file, a folder or a glob."""
    out: Path = Path("runs/ladder")
    """Folder for ladder.json, ladder.md, ladder.png, and a model folder for every rung."""
    full: bool = False
    """Make the last rung the 10M-parameter GPT (for a GPU: hours on a CPU)."""
    max_steps: int | None = None
    """Let no rung take more steps than this: for a quick look, not for good losses."""
    seed: int = 1337
    """Decides weights and data order of every rung."""
    resume: bool = False
    """Keep the rungs in `out` that are finished and go on from there."""
    overwrite: bool = False
    """Replace the rungs in `out`; wins over --resume."""

    def __post_init__(self) -> None:
        if self.max_steps is not None and self.max_steps < 1:
            raise UserError(f"max_steps is {self.max_steps}: expected at least 1")


def main(argv: Sequence[str]) -> int:
    """Train the rungs, print and save the comparison. Returns 0, or 130 if a signal ended it."""
    config = cli.parse(LadderConfig, argv, f"python -m {MODULE}")
    console = cli.console()
    if _cpu.notice:
        console.print(f"note: {_cpu.notice}")
    taken = (config.out / "ladder.json").exists()
    if taken and not (config.resume or config.overwrite):
        raise UserError(
            f"{config.out} already holds a ladder: give --resume to keep its finished rungs, "
            f"--overwrite to replace them, or another --out"
        )
    results = []
    for i, rung in enumerate(rungs(config.full)):
        console.print(f"\n{rung.name}: {rung.idea}", style="bold")
        result = climb(rung, config, cli.command_line(MODULE, argv), console)
        if i == 0 and config.overwrite:
            forget(rungs(config.full)[1:], config.out)
        if result is None:
            command = cli.resume_command(MODULE, argv)
            console.print(f"stopped and saved; to go on: {command}")
            return 130
        results.append(result)
    print_table(results, console)
    save(results, config.out)
    console.print(f"\nsaved in {config.out}: ladder.json, ladder.md, ladder.png")
    return 0


def forget(later: Sequence[Rung], folder: Path) -> None:
    """Delete an older ladder's rungs, so that resuming a stopped --overwrite can't mix the two."""
    (folder / "ladder.json").unlink(missing_ok=True)
    for rung in later:
        if (folder / rung.name / "run.json").exists():
            delete_checkpoints(folder / rung.name)
            delete_model(folder / rung.name)
            (folder / rung.name / "run.json").unlink()


def climb(rung: Rung, config: LadderConfig, command: str, console: Console) -> RungResult | None:
    """Train one rung into its model folder. None if a signal ended it."""
    train_config = rung_config(rung, config.corpus, config.out, config.seed)
    if config.max_steps is not None:
        fewer = min(train_config.max_steps, config.max_steps)
        train_config = replace(train_config, max_steps=fewer)
    train_config = replace(train_config, resume=config.resume, overwrite=config.overwrite)
    result = run(train_config, command, console)
    if result is None:
        return None
    model, tokenizer = load_model(train_config.out)
    return RungResult(
        name=rung.name,
        idea=rung.idea,
        parameters=model.n_parameters(),
        steps=result.steps,
        val_loss=result.val_loss,
        val_bits_per_byte=result.val_bits_per_byte,
        tokens_per_second=result.tokens_per_second,
        seconds=result.seconds,
        sample=write_sample(model, tokenizer, SAMPLE_CHARACTERS, config.seed),
    )


if __name__ == "__main__":
    sys.exit(cli.run(main))
