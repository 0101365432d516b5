"""One run: from a configuration to a finished model folder, destroying nothing unasked."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from rich.console import Console

from gptfast.data.dataset import DataReport, Dataset, Mixture
from gptfast.data.leakage import from_the_others
from gptfast.data.manifest import is_prepared
from gptfast.data.prepare import prepare
from gptfast.errors import UserError
from gptfast.model.folder import FILES
from gptfast.model.size import flops_per_token
from gptfast.ops import use_backend
from gptfast.system.locking import alone_in
from gptfast.tokenizer import load_tokenizer
from gptfast.train.checkpoint import delete_checkpoints
from gptfast.train.config import TrainConfig
from gptfast.train.display import Display
from gptfast.train.distributed import World, world
from gptfast.train.loop import Clock, Result, Trainer, begin
from gptfast.train.metrics import check_trackers
from gptfast.train.record import read_record, write_record
from gptfast.train.sampler import Sampler, WriteSample

CHANGEABLE = (
    "out", "sample_interval", "log_to", "checkpoint_interval", "keep_checkpoints",
    "spike", "max_rollbacks", "micro_batch_size", "recompute_blocks", "compile", "kernels",
    "device", "parallel", "learning_rate", "matrix_learning_rate",
)  # fmt: skip
"""Settings that --resume may change: what another machine needs, and what saves a run that gave up.
The learning rates change what is learned; the others when the run gives up and how it is computed:
by rounding, by which random numbers dropout gets, and by what experts are balanced over."""


def run(
    config: TrainConfig, command: str, console: Console, write_sample: WriteSample | None = None
) -> Result | None:
    """Prepare the data, train into config.out, and record `command` and the result in run.json.

    A run that is finished already is not repeated with config.resume; its result is returned.
    write_sample: what shows samples on the way; without it there are none. Returns None if a signal
    ended the run early. Raises UserError, MissingFileError or RunError.
    """
    check_trackers(config.log_to)
    with ExitStack() as stack:
        processes = stack.enter_context(world(config.device))
        stack.enter_context(use_backend(config.kernels))
        if not processes.is_main:
            console.quiet = True
        interval = sample_interval(config, processes, console)
        with processes.main_first():  # the others find the data made
            older = None
            if processes.is_main:
                check_output(config)  # before as much as a lock is written there
                stack.enter_context(alone_in(config.out))
                older = check_output(config)
            data = prepare_all(config, console)
        for part in data.parts:
            console.print(describe(part.report))
        tokens = config.max_steps * config.batch_size * config.model.block_size
        epochs = [
            f"{tokens * share / part.report.train_tokens:.3g}"
            for share, part in zip(data.weights, data.parts, strict=True)
        ]
        console.print(
            f"{config.max_steps:,} steps take {tokens:,} tokens, {' and '.join(epochs)} epochs"
        )
        if processes.is_main and older is not None:
            check_same_data(config.out, older, data)
        (finished, *_) = processes.gather(older["result"] if older else None)
        if finished:
            console.print(f"{config.out} is trained already (--overwrite trains it again)")
            return Result(**finished)
        if processes.is_main and older is not None:
            for name, (then, now) in changed(older, config).items():
                console.print(f"going on with {name} {now}, which was {then}")
        if processes.is_main and len(data.parts) > 1:
            for part, share in zip(data.parts, from_the_others(data), strict=True):
                console.print(
                    f"{share:.2%} of what {part.report.corpus} validates on occurs in the train "
                    f"parts of the others (in samples)"
                )
        clock = Clock()
        model = begin(config, data, processes)  # complains before anything is written or deleted
        if processes.is_main:
            # In this order, a kill at any point leaves a run that --resume or --overwrite can
            # deal with.
            if config.overwrite:
                delete_checkpoints(config.out)
            write_record(config, command, data, None, older, processes.size)
            if config.overwrite:
                delete_model(config.out)
        processes.gather(None)  # now nothing of an older run is left for the others to load
        flops = 3 * flops_per_token(model.config) if config.model.architecture == "gpt" else None
        sampler = None
        if write_sample and interval:
            sampler = Sampler(write_sample, data.tokenizer, interval)
        with (
            Display(config.max_steps, console, processes, flops, sampler) as display,
            closing(Trainer(config, data, model, display, processes, clock)) as trainer,
        ):
            result = trainer.run()
        if result is not None and processes.is_main:
            write_record(config, command, data, result, older, processes.size)
        return result


def prepare_all(config: TrainConfig, console: Console) -> Mixture:
    """Every corpus of the configuration, the first with its tokenizer, the others with the same."""
    parts: list[Dataset] = []
    for corpus in (config.corpus, *config.also):
        tokenizer = str(parts[0].folder) if parts else config.tokenizer
        if parts and is_prepared(Path(corpus)):
            tokenizer = "bpe"  # it has its own; the mixture says so if that is another one
        parts.append(
            prepare(corpus, tokenizer, config.model.vocab_size, config.val_fraction, console.print)
        )
    return Mixture.of(parts, config.weights)


def check_output(config: TrainConfig) -> dict[str, Any] | None:
    """The record of the run in config.out to go on with, None if a new one begins.

    Raises UserError where writing would destroy something that was not asked to be destroyed.
    """
    out = config.out
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise UserError(f"can't write into {out} ({error}): choose another --out") from error
    if not (out / "run.json").exists():
        if any(not path.name.startswith(".") for path in out.iterdir()):
            raise UserError(f"{out} holds files that are no run of gptfast: choose another --out")
        return None
    if config.overwrite:
        return None
    if not config.resume:
        raise UserError(
            f"{out} already holds a run: give --resume to go on with it, --overwrite to replace "
            f"it, or another --out"
        )
    older = read_record(out)
    refused = [
        f"{name}={then!r}"
        for name, (then, _) in changed(older, config).items()
        if name not in CHANGEABLE
    ]
    if refused:
        was = ", ".join(refused)
        raise UserError(
            f"the run in {out} was begun with {was}: --resume can't change that; give the "
            f"same arguments, or --overwrite to begin anew"
        )
    return older


def changed(older: dict[str, Any], config: TrainConfig) -> dict[str, tuple[Any, Any]]:
    """The settings that differ from those of an older record: (then, now)."""
    # What a record of an older version doesn't know was as it is by default.
    then = flat(TrainConfig().to_json()) | flat(older["config"])
    now = flat(config.to_json())
    return {name: (then[name], now[name]) for name in now if now[name] != then[name]}


def flat(config: dict[str, Any]) -> dict[str, Any]:
    """The fields of a run's configuration, those of its model among them."""
    model: dict[str, Any] = config.get("model", {})
    return {k: v for k, v in config.items() if k != "model"} | model


def check_same_data(folder: Path, older: dict[str, Any], data: Mixture) -> None:
    """Raise UserError if the corpus or the tokenizer is not the one that the run began with."""
    tokenizer = folder / "tokenizer.json"
    same_tokenizer = (
        not tokenizer.exists() or load_tokenizer(folder).fingerprint == data.tokenizer.fingerprint
    )
    then = [older["data"], *older.get("further_data", [])]
    same_corpora = [part["corpus_sha256"] for part in then] == [
        part.report.corpus_sha256 for part in data.parts
    ]
    if not (same_corpora and same_tokenizer):
        raise UserError(
            f"the corpus or the tokenizer has changed since the run in {folder} was begun: "
            f"--resume can't go on with other data; give --overwrite to begin anew"
        )


def delete_model(folder: Path) -> None:
    """Delete what else a run wrote, but its run.json, and nothing else that may lie there."""
    for name in (*FILES, "metrics.jsonl"):
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / "tensorboard", ignore_errors=True)


def sample_interval(config: TrainConfig, world: World, console: Console) -> int:
    """Steps between samples, 0 for none. Raises UserError if there can't be the ones asked for."""
    sharded = world.size > 1 and config.parallel == "fsdp"
    if config.sample_interval and sharded:
        raise UserError(
            f"sample_interval is {config.sample_interval}: with parallel 'fsdp' no process holds "
            f"the whole model to sample from; give --sample-interval 0 or --parallel ddp"
        )
    if sharded or console.quiet:
        return 0
    if config.sample_interval is None:
        return config.eval_interval if console.is_terminal else 0
    return config.sample_interval


def describe(report: DataReport) -> str:
    """The corpus in one line."""
    return (
        f"corpus {report.corpus}: train on {report.train_bytes:,} bytes ({report.train_tokens:,} "
        f"tokens, {report.train_documents} documents), validate on {report.val_bytes:,} bytes "
        f"({report.val_documents} documents; {report.overlap:.2%} of it occurs in train)"
    )
