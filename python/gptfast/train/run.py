"""One run: from a configuration to a finished model folder, destroying nothing unasked."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console

from gptfast.data.loader import check_length
from gptfast.data.prepare import DataReport, prepare
from gptfast.errors import UserError
from gptfast.train.config import TrainConfig
from gptfast.train.display import Display
from gptfast.train.loop import Result, resolve_device, train
from gptfast.train.record import read_record, write_record


def run(config: TrainConfig, command: str, console: Console) -> Result | None:
    """Prepare the data, train into config.out, and record `command` and the result in run.json.

    A run that is finished already is not repeated with config.resume; its result is returned.
    Returns None if a signal ended the run early. Raises UserError, MissingFileError or RunError.
    """

    def say(text: str) -> None:
        console.print(text, highlight=False, markup=False, soft_wrap=True)

    older = check_output(config)
    if older and older["result"] and config.resume:
        say(f"{config.out} is trained already (--overwrite trains it again)")
        return Result(**older["result"])
    data = prepare(config.corpus, config.tokenizer, config.vocab_size, config.val_fraction, say)
    say(describe(data.report))
    # Complain before an older run is deleted and a new one is begun.
    config.model_config(data.tokenizer.n_vocab)
    resolve_device(config.device)
    check_length(data.train, config.block_size, "train")
    check_length(data.val, config.block_size, "val")
    if older and config.overwrite:
        delete_run(config.out)
    write_record(config, command, data.report, None)
    with Display(config.max_steps, console) as display:
        result = train(config, data, display)
    if result is not None:
        write_record(config, command, data.report, result)
    return result


def check_output(config: TrainConfig) -> dict[str, Any] | None:
    """The record of the run that config.out holds, None if it is free.

    Raises UserError where writing would destroy something that was not asked to be destroyed.
    """
    out = config.out
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise UserError(f"can't write into {out} ({error}): choose another --out") from error
    older = read_record(out)
    if older is None:
        if any(out.iterdir()):
            raise UserError(f"{out} holds files that are no run of gptfast: choose another --out")
        return None
    if config.resume and config.overwrite:
        raise UserError("--resume goes on and --overwrite begins anew: give one of them")
    if not config.resume and not config.overwrite:
        raise UserError(
            f"{out} already holds a run: give --resume to go on with it, --overwrite to replace "
            f"it, or another --out"
        )
    if config.resume:
        now = config.to_json()
        changed = [f for f, value in older["config"].items() if now.get(f) != value and f != "out"]
        if changed:
            was = ", ".join(f"{name}={older['config'][name]!r}" for name in changed)
            raise UserError(
                f"the run in {out} was begun with {was}: --resume can't change that; give the "
                f"same arguments, or --overwrite to begin anew"
            )
    return older


def delete_run(folder: Path) -> None:
    """Delete what a run writes, and nothing else that may lie there."""
    for name in ("config.json", "generation_config.json", "metrics.jsonl", "model.safetensors",
                 "run.json", "tokenizer.json"):  # fmt: skip
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / "training", ignore_errors=True)


def describe(report: DataReport) -> str:
    """The corpus in one line."""
    return (
        f"corpus {report.corpus}: train on {report.train_bytes:,} bytes ({report.train_tokens:,} "
        f"tokens, {report.train_documents} documents), validate on {report.val_bytes:,} bytes "
        f"({report.val_documents} documents; {report.overlap:.2%} of it occurs in train)"
    )
