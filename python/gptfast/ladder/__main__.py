"""`python -m gptfast.ladder`: train every rung on the same text and compare them."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from rich.console import Console

from gptfast.cli import cli
from gptfast.cli.path import PATH
from gptfast.cli.printing import lossy_output
from gptfast.data.documents import TextOptions
from gptfast.data.loader import check_length
from gptfast.errors import UserError
from gptfast.ladder.report import RungResult, print_table, save
from gptfast.ladder.rungs import Rung, rung_config, rungs
from gptfast.model import LanguageModel
from gptfast.model.folder import load_model
from gptfast.report.write import read_entries, write_comparison
from gptfast.sample.generate import write_sample
from gptfast.system import cpu
from gptfast.system.files import make_folder, write_text_atomically
from gptfast.system.locking import folder_lock
from gptfast.tokenizer import Tokenizer
from gptfast.train.checkpoint import delete_checkpoints
from gptfast.train.pretrain import prepare_corpora, pretrain
from gptfast.train.record import read_record
from gptfast.train.run import delete_model

MODULE = "gptfast.ladder"
TITLE = "From bigram to GPT"
SAMPLE_CHARACTERS = 200


@dataclass(frozen=True)
class LadderConfig(TextOptions):
    """Which text to train on, and where to put the results."""

    corpus: Annotated[str, PATH] = "shakespeare"
    """'shakespeare', 'tinyshakespeare', or the path of a text file, a folder or a glob."""
    out: Path = Path("runs/ladder")
    """Folder for ladder.json, ladder.md, ladder.png, report.html, and a model folder for every
    rung."""
    full: bool = False
    """Make the last rung the 10M-parameter GPT: for a GPU, as it takes hours on a CPU."""
    max_steps: int | None = None
    """Most steps of a rung: for a quick try, not for good losses."""
    seed: int = 1337
    """Decides the weights and the data order of every rung."""
    resume: bool = False
    """Keep the finished rungs in `out` and continue with the next."""
    overwrite: bool = False
    """Replace the rungs in `out`; overrides --resume."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_steps is not None and self.max_steps < 1:
            raise UserError(f"max_steps is {self.max_steps}: expected at least 1")


def main(argv: Sequence[str]) -> int:
    """Train the rungs; print and save the comparison. Return 0, or 130 if a signal ended it."""
    config = cli.parse(LadderConfig, argv, f"python -m {MODULE}")
    console = cli.console()
    if cpu.notice:
        console.print(f"note: {cpu.notice}")
    make_folder(config.out)
    with lossy_output(), folder_lock(config.out):
        return climb_all(config, console, argv)


def climb_all(config: LadderConfig, console: Console, argv: Sequence[str]) -> int:
    """Train the rungs that are not finished. Return 0, or 130 if a signal ended it.

    Raises UserError if config.out holds a ladder that nothing says to resume or overwrite.
    """
    taken = (config.out / "ladder.json").exists()
    if taken and not (config.resume or config.overwrite):
        raise UserError(
            f"{config.out} already holds a ladder: give --resume to keep its finished rungs, "
            f"--overwrite to replace them, or another --out"
        )
    if config.overwrite:
        check_corpus(config)  # raises before anything is deleted
        forget(rungs(config.full), config.out)
    results = []
    for rung in rungs(config.full):
        console.print(f"\n{rung.name}: {rung.idea}", style="bold")
        result = climb(rung, config, cli.command_line(MODULE, argv), console)
        if result is None:
            command = cli.resume_command(MODULE, argv)
            console.print(f"stopped and saved; to continue: {command}")
            return 130
        results.append(result)
    print_table(results, console)
    save(results, config.out)
    write_comparison(TITLE, read_entries([config.out]), config.out / "report.html")
    console.print(f"\nsaved in {config.out}: ladder.json, ladder.md, ladder.png, report.html")
    return 0


def check_corpus(config: LadderConfig) -> None:
    """Raise UserError if the text is too short for one of the rungs."""
    settings = [
        rung_config(rung, config.corpus, config.out, config.seed, config)
        for rung in rungs(config.full)
    ]
    (data,) = prepare_corpora(settings[0], Console(quiet=True)).parts  # the same for all
    longest = max(rung.model.block_size for rung in settings)
    check_length(data.val, longest, f"val part of {config.corpus}")


def forget(older: Sequence[Rung], folder: Path) -> None:
    """Delete an older ladder's rungs, so that resuming a stopped --overwrite can't mix the two.

    The order matters: a kill at any point leaves no rung whose record says finished and whose model
    is gone.
    """
    (folder / "ladder.json").unlink(missing_ok=True)
    for rung in older:
        record = folder / rung.name / "run.json"
        if record.exists():
            delete_checkpoints(folder / rung.name)
            with suppress(UserError):  # a damaged record counts as unfinished
                unfinished = read_record(record.parent) | {"result": None}
                write_text_atomically(record, json.dumps(unfinished))
            delete_model(folder / rung.name)
            record.unlink()


def climb(rung: Rung, config: LadderConfig, command: str, console: Console) -> RungResult | None:
    """Train one rung into its model folder. Return None if a signal ended it."""
    train_config = rung_config(rung, config.corpus, config.out, config.seed, config)
    if config.max_steps is not None:
        fewer = min(train_config.max_steps, config.max_steps)
        train_config = replace(train_config, max_steps=fewer)
    train_config = replace(train_config, resume=config.resume, overwrite=config.overwrite)

    def sample(model: LanguageModel, tokenizer: Tokenizer) -> str:
        return write_sample(model, tokenizer, SAMPLE_CHARACTERS, config.seed)

    result = pretrain(train_config, command, console, sample)
    if result is None:
        return None
    model, tokenizer = load_model(train_config.out)
    return RungResult(
        name=rung.name,
        idea=rung.idea,
        parameters=model.n_parameters(),
        steps=result.steps,
        val_loss=result.val_loss,
        val_bits_per_byte=result.measured["val_bits_per_byte"],
        tokens_per_second=result.tokens_per_second,
        seconds=result.seconds,
        sample=sample(model, tokenizer),
    )


if __name__ == "__main__":
    sys.exit(cli.run(main))
