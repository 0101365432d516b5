"""Run a training from its configuration to a finished model folder.

Existing files are only deleted on request.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from rich.console import Console

from gptfast.errors import UserError
from gptfast.model import GPT
from gptfast.model.base import LanguageModel
from gptfast.model.folder import FILES, describe_model, load_weights
from gptfast.model.size import flops_per_token
from gptfast.ops import use_backend
from gptfast.system.files import make_folder
from gptfast.system.locking import folder_lock
from gptfast.system.memory import keep_freed_memory
from gptfast.system.signals import Stop, stop_signal
from gptfast.system.threads import share_cores
from gptfast.tokenizer.chat import CHAT_TEMPLATE_FILE, write_chat_template
from gptfast.train.checkpoint import (
    Clock,
    delete_checkpoints,
    make_best_record,
    newest_step,
    read_best,
)
from gptfast.train.config import Dtype, RunConfig
from gptfast.train.display import Display, Sampler, WriteSample
from gptfast.train.distributed import World, join_world
from gptfast.train.freeze import freeze
from gptfast.train.loop import Result, Trainer
from gptfast.train.metrics import Metrics, check_trackers
from gptfast.train.objective import Task
from gptfast.train.precision import Precision, resolve_dtype
from gptfast.train.record import read_record, write_record
from gptfast.train.resume import (
    check_changes,
    check_same_data,
    describe_changes,
    is_finished,
)
from gptfast.train.room import check_room
from gptfast.train.step import accumulate_gradients, gradient_scaler

AnyConfig = TypeVar("AnyConfig", bound=RunConfig)


def run(
    config: AnyConfig,
    prepare: Callable[[AnyConfig, Console], Task],
    *,
    command: str = "",
    console: Console | None = None,
    write_sample: WriteSample | None = None,
) -> Result | None:
    """Train the task that `prepare` builds, into config.out, and return the result.

    command: recorded in run.json. write_sample: writes samples during training; None means the
    task's own writer, if it has one. With config.resume, a finished run is not repeated, and its
    result is returned. Returns None if a signal ended the run early, after a checkpoint was saved.
    Raises UserError, MissingFileError or RunError, and KeyboardInterrupt for a signal while the
    data is prepared.
    """
    check_trackers(config.log_to)
    console = console or Console(quiet=True)
    with ExitStack() as stack:
        world = stack.enter_context(join_world(config.device))
        stack.enter_context(use_backend(config.kernels))
        stack.enter_context(share_cores())
        console.quiet = console.quiet or not world.is_main
        config.micro_batches(world.size)  # raises if the batch can't be divided evenly
        interval = sample_interval(config, world)
        stop = stack.enter_context(stop_signal())
        early = f"interrupted while the data is prepared: nothing in {config.out} has changed"
        with stop.at_once(early), world.main_first():  # the other processes find it prepared
            older = guard_folder(config, stack) if world.is_main else None
            task = prepare(config, console)
        (older, *_) = world.gather(older)
        config = replace(config, dtype=choose_dtype(config, older, world, console))
        announce(config, task, older, world, console)
        if older is not None and is_finished(older, config):
            return Result(**older["result"])
        clock = Clock()
        model = begin(config, task, world, console)  # raises before anything is written or deleted
        if older is not None and older["config"]["eval_windows"] != config.eval_windows:
            measure_best_again(config, task, model, world, console)
        if world.is_main:
            check_room(config, model)
            record_start(config, command, task, model, older, world)
        world.gather(None)  # an older run is now deleted, so no process can load it
        write = write_sample or task.write_sample
        sampler = None
        if write is not None and task.tokenizer is not None and world.is_main:
            sampler = Sampler(write, task.tokenizer, interval, further_samples(config))
        shown = console.is_terminal or config.sample_interval is not None
        display = Display(config.max_steps, console, world, training_flops(model), shown)
        result = train(config, task, model, display, world, clock, stop, sampler)
        if result is not None and world.is_main:
            write_record(config, command, task, result, older, world.size)
        return result


def train(
    config: RunConfig,
    task: Task,
    model: LanguageModel,
    display: Display,
    world: World,
    clock: Clock,
    stop: Stop,
    sampler: Sampler | None,
) -> Result | None:
    """Run the training loop, and close its files and threads."""
    with (
        display,
        closing(Metrics(config.out, display.message, world.is_main, config.log_to)) as metrics,
        closing(
            Trainer(
                config, model, task.source, task.objective, display, metrics, world, clock, sampler
            )
        ) as trainer,
    ):
        return trainer.run(stop)


def announce(
    config: RunConfig, task: Task, older: dict[str, Any] | None, world: World, console: Console
) -> None:
    """Print what the run will do. Raises UserError if the data has changed."""
    for note in task.notes:
        console.print(note)
    if older is not None:
        check_same_data(config.out, older, task.source.fingerprint)
        if is_finished(older, config):
            console.print(
                f"{config.out} is trained already (more --max-steps continue it, --overwrite "
                f"trains it again)"
            )
            return
        for line in describe_changes(older, config):
            console.print(line)
    if world.is_main and task.examine is not None:
        for note in task.examine():
            console.print(note)


# ---- the folder: files are only deleted on request -----------------------------------------------


def guard_folder(config: RunConfig, stack: ExitStack) -> dict[str, Any] | None:
    """Lock config.out; return the record of the run to resume, or None if a new run starts.

    stack: releases the lock when it closes. Raises UserError if the run would destroy files without
    a request to do so.
    """
    check_output(config)  # before writing even a lock
    stack.enter_context(folder_lock(config.out))
    return check_output(config)


def check_output(config: RunConfig) -> dict[str, Any] | None:
    """Return the record of the run in config.out to resume, or None if a new run starts.

    Raises UserError if the run would destroy files without a request to do so.
    """
    out = config.out
    make_folder(out, "choose another --out")
    if not (out / "run.json").exists():
        if any(not path.name.startswith(".") for path in out.iterdir()):
            raise UserError(f"{out} holds files, but no run of gptfast: choose another --out")
        return None
    if config.overwrite:
        return None
    if not config.resume:
        raise UserError(
            f"{out} already holds a run: give --resume to continue it, --overwrite to replace it, "
            f"or another --out"
        )
    older = read_record(out)
    check_changes(older, config)
    return older


def record_start(
    config: RunConfig,
    command: str,
    task: Task,
    model: LanguageModel,
    older: dict[str, Any] | None,
    world: World,
) -> None:
    """Delete the old run in config.out if --overwrite was given, and describe the new run.

    The order matters: a kill at any point leaves a run that --resume or --overwrite can handle.
    """
    if config.overwrite:
        delete_checkpoints(config.out)
    write_record(config, command, task, None, older, world.size)
    if config.overwrite:
        delete_model(config.out)
    describe_model(config.out, model, task.tokenizer)
    if task.chat_template is not None:
        write_chat_template(config.out, task.chat_template)


def delete_model(folder: Path) -> None:
    """Delete the files that a run wrote, except run.json, and no other files in the folder."""
    for name in (*FILES, CHAT_TEMPLATE_FILE, "metrics.jsonl", "quantization.json"):
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / "tensorboard", ignore_errors=True)


# ---- the model -----------------------------------------------------------------------------------


def begin(config: RunConfig, task: Task, world: World, console: Console) -> LanguageModel:
    """Return the initial model of a run, after a trial step without update.

    A model that will be sharded gets no trial step, because it may fit a device only when sharded.
    """
    keep_freed_memory(world.device)
    torch.manual_seed(config.seed)
    model = set_up(task.new_model(world.device), config)
    if config.freeze:
        console.print(freeze(model, config.freeze))
    if world.size == 1 or config.parallel == "ddp":
        # Restore the random state: the trial step must not change what is learned.
        with torch.random.fork_rng([world.device] if world.device.type == "cuda" else []):
            try_step(config, task, model, world)
    if not world.is_main:
        torch.manual_seed(config.seed + world.rank)  # dropout must differ, the weights must not
    return model


def set_up(model: LanguageModel, config: RunConfig) -> LanguageModel:
    """Return the model, compiled and with activation checkpointing if the configuration says so."""
    if isinstance(model, GPT):
        model.activation_checkpointing = config.activation_checkpointing
    if config.compile:
        model.compile()
    return model


def try_step(config: RunConfig, task: Task, model: LanguageModel, world: World) -> None:
    """Compute this process's share of the gradients of a step, and discard them."""
    share = task.source.example().share(world.rank, world.size)
    accumulate_gradients(
        model,
        task.objective.prepare(model, share),
        task.objective,
        gradient_scaler(config.resolved_dtype, world.device),
        micro_batch_size=config.windows_at_a_time(world.size),
        dtype=config.resolved_dtype,
    )
    model.zero_grad()
    model.forget_step()


def measure_best_again(
    config: RunConfig, task: Task, model: LanguageModel, world: World, console: Console
) -> None:
    """Evaluate the best weights on other val windows, which later losses can be compared with.

    The model keeps these weights, until a checkpoint replaces them.
    """
    weights = config.out / model.stored.weights_file
    (best, *_) = world.gather(read_best(weights) if world.is_main else None)
    if best is None or newest_step(config.out) is None:
        return
    load_weights(model, weights)
    loss = task.objective.evaluate(model, world, whole=False).loss
    if world.is_main:
        make_best_record(weights, loss, best[1])
    console.print(
        f"val loss of the best weights, from step {best[1]}: {loss:.4f} on the new windows, "
        f"{best[0]:.4f} on the old ones"
    )


def choose_dtype(
    config: RunConfig, older: dict[str, Any] | None, world: World, console: Console
) -> Dtype:
    """Return the dtype that config.dtype resolves to. A resumed run keeps its dtype."""
    if config.dtype != "auto":
        return config.dtype
    if older is not None:
        kept: Dtype = older["config"]["dtype"]
        return kept
    every = world.gather(resolve_dtype(world.device))
    chosen: Precision = every[0]  # rank 0 decides for all
    console.print(f"dtype auto is {chosen.dtype}: {chosen.reason}")
    return chosen.dtype


def training_flops(model: LanguageModel) -> int | None:
    """Return the number of operations per token in training, or None if it is no GPT.

    Weights that are frozen beside an adapter have no gradient, which is a third of the operations.
    """
    passes = 3 if model.adapter is None else 2
    return passes * flops_per_token(model.config) if model.config.architecture == "gpt" else None


def sample_interval(config: RunConfig, world: World) -> int:
    """Return the steps between samples, 0 for no samples.

    Raises UserError if samples are requested but impossible.
    """
    sharded = world.size > 1 and config.parallel == "fsdp"
    if config.sample_interval and sharded:
        raise UserError(
            f"sample_interval is {config.sample_interval}: with parallel 'fsdp' no process holds "
            f"the whole model to sample from; give --sample-interval 0 or --parallel ddp"
        )
    if sharded:
        return 0
    return config.eval_interval if config.sample_interval is None else config.sample_interval


def further_samples(config: RunConfig) -> set[int]:
    """Return the steps of the samples by default, besides those of the evaluations.

    A report shows the model before training, after 10% and half of the steps, and at the end.
    """
    if config.sample_interval is not None:
        return set()
    return {config.max_steps // 10, config.max_steps // 2, config.max_steps}
