"""Collect runs for docs/records.md: `python benchmarks/records.py RUN... --json FILE`.

Print for each run its lowest val loss on the way, and the time from its start, when the data are
ready and there is no model yet, to that evaluation. Write both, all evaluations, and what run.json
says of the machine. `--together` adds what the runs reach as one model, the mean of their
probabilities, in the time that all of them took.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from ensemble import Ensemble
from gptfast.cli import cli
from gptfast.data.loader import EvalWindows
from gptfast.data.prepare import prepare
from gptfast.errors import UserError
from gptfast.model.folder import load_model
from gptfast.system.files import write_text_atomically
from gptfast.train.evaluate import evaluate
from gptfast.train.history import read_run
from gptfast.train.record import read_record


@dataclass(frozen=True)
class Config:
    """Which runs, and where to."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Model folders of finished runs."""
    together: bool = False
    """Whether to add what the runs reach together."""
    json: Path | None = None
    """File for the results."""


def main(argv: Sequence[str]) -> int:
    """Print the records, and write them if asked to. Returns 0."""
    config = cli.parse(Config, argv, "benchmarks/records.py")
    records = [record(folder) for folder in config.runs]
    for r in records:
        print(f"{r['preset']}: val {r['val_loss']:.4f} after {r['seconds']:.1f} s")
    if config.together:
        of_all = together(config.runs, records)
        print(f"together: val {of_all['val_loss']:.4f} after {of_all['seconds']:.1f} s")
        records.append(of_all)
    if config.json:
        write_text_atomically(config.json, json.dumps(records, indent=2) + "\n")
    return 0


def record(folder: Path) -> dict[str, Any]:
    """What a finished run reached. Raises MissingFileError or UserError."""
    run, made = read_run(folder), read_record(folder)
    if run.result is None:
        raise UserError(f"the run in {folder} is not finished: go on with it first")
    best = min(run.evaluations, key=lambda e: e["val_loss"])
    return {
        "preset": made["config"]["preset"],
        "command": made["command"],
        "written": made["written"],
        "val_loss": best["val_loss"],
        "seconds": best["seconds"],
        "val_loss_of_the_whole_split": run.result["val_loss"],
        "tokens_per_second": run.result["tokens_per_second"],
        "evaluations": run.evaluations,
        "losses": [[line["step"], round(line["loss"], 4)] for line in run.losses],
        "corpus_sha256": made["data"]["corpus_sha256"],
        "hardware": made["hardware"],
        "versions": made["versions"],
    }


def together(folders: Sequence[Path], records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What finished runs reach as one model: the mean of their probabilities.

    seconds: those of all runs to their last evaluations, one after the other, and of the evaluation
    of the mean. The members are each run's best weights. Raises UserError for runs that did not
    learn from the same part of the same text, with the same tokenizer.
    """
    if len(folders) < 2:
        raise UserError(f"{len(folders)} runs given: --together needs two or more")
    configs = [read_record(folder)["config"] for folder in folders]
    loaded = [load_model(folder) for folder in folders]
    learned_from = {
        (record["corpus_sha256"], config["val_fraction"], tokenizer.fingerprint)
        for record, config, (_, tokenizer) in zip(records, configs, loaded, strict=True)
    }
    if len(learned_from) > 1 or any(c["mix_corpora"] or c["mask_documents"] for c in configs):
        raise UserError(
            "the runs can't be taken together: expected one corpus, split in the same way, one "
            "tokenizer, and no masked documents"
        )
    made = configs[0]
    model = Ensemble([member for member, _ in loaded])
    data = prepare(
        made["corpus"], str(folders[0]), model.config.vocab_size, made["val_fraction"], print
    )
    if data.report.corpus_sha256 != records[0]["corpus_sha256"]:
        raise UserError(f"{made['corpus']} is no longer the text that the runs learned from")
    begun = time.perf_counter()
    windows = data.val, model.config.block_size, made["batch_size"]
    val_loss = evaluate(model, EvalWindows(*windows, made["eval_windows"]))
    seconds = time.perf_counter() - begun
    return {
        "together": [record["command"] for record in records],
        "val_loss": val_loss,
        "seconds": sum(record["evaluations"][-1]["seconds"] for record in records) + seconds,
        "val_loss_of_the_whole_split": evaluate(model, EvalWindows(*windows)),
    }


if __name__ == "__main__":
    sys.exit(cli.run(main))
