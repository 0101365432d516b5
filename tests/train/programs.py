"""What the processes of a test run: training in which something happens at a certain moment."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from rich.console import Console

from gptfast.data.batch import Batch
from gptfast.model import GPT, ModelConfig
from gptfast.system.signals import Stop
from gptfast.train.__main__ import main
from gptfast.train.checkpoint import State
from gptfast.train.config import TrainConfig
from gptfast.train.distributed import join_world
from gptfast.train.loop import Trainer
from gptfast.train.metrics import Metrics
from gptfast.train.pretrain import pretrain
from gptfast.train.recovery import Recovery


def train_and_hang(arguments: list[str]) -> int:
    """Train, but stand still in step 7."""
    step = Trainer.step

    def step_or_hang(trainer: Trainer) -> None:
        if trainer.state.progress.step == 7:
            time.sleep(600)
        step(trainer)

    Trainer.step = step_or_hang  # type: ignore[method-assign]
    return main(arguments)


def train_with_a_bad_batch(arguments: list[str]) -> int:
    """Train, but the loss of batch 13 is NaN in the last process."""
    forward, next_batch = GPT.forward, Trainer.next_batch
    is_last = os.environ.get("RANK", "0") == str(int(os.environ.get("WORLD_SIZE", "1")) - 1)
    number = -1

    def next_batch_and_number(trainer: Trainer) -> Batch:
        nonlocal number
        batch = next_batch(trainer)
        number = trainer.state.progress.batches - 1
        return batch

    def poisoned(model: GPT, *arguments: object) -> torch.Tensor:
        loss = forward(model, *arguments)  # type: ignore[arg-type]
        return loss * float("nan") if model.training and is_last and number == 13 else loss

    GPT.forward, Trainer.next_batch = poisoned, next_batch_and_number  # type: ignore[assignment,method-assign]
    return main(arguments)


def gloo_threads() -> list[str]:
    names = []
    for task in Path("/proc/self/task").iterdir():
        with suppress(OSError):  # it has just ended
            names.append((task / "comm").read_text().strip())
    return [name for name in names if "gloo" in name]


def train_and_count_threads(arguments: list[str]) -> int:
    """Train; print the number of the process group's threads in the run and after it."""

    def print_count(when: str) -> None:
        os.write(1, f"threads {when} the run: {len(gloo_threads())}\n".encode())  # in one piece

    train = Trainer.run

    def train_and_count(trainer: Trainer, stop: Stop) -> object:
        result = train(trainer, stop)
        print_count("in")
        return result

    Trainer.run = train_and_count  # type: ignore[assignment,method-assign]
    code = main(arguments)
    gc.collect()  # as Python does at its end
    deadline = time.monotonic() + 10  # one that was joined may be listed for a moment
    while gloo_threads() and time.monotonic() < deadline:
        time.sleep(0.01)
    print_count("after")
    return code


def print_patience(arguments: list[str]) -> int:
    """Print how many seconds a process waits for another."""
    with join_world("cpu"):
        options = dist.group.WORLD._get_backend(torch.device("cpu")).options
        timeout: timedelta = options._timeout
        print(timeout.total_seconds())
    return 0


def short_run(corpus: Path, out: Path) -> TrainConfig:
    """Twelve steps, of which every fourth is saved."""
    return TrainConfig(
        out=out, corpus=str(corpus), tokenizer="char",
        model=ModelConfig(1024, block_size=16, n_layer=2, n_head=2, n_embd=16, dropout=0.1),
        max_steps=12, batch_size=4, warmup_steps=2, eval_interval=4, eval_windows=4,
        dtype="float32",
    )  # fmt: skip


def kill_before(
    owner: Any, name: str, is_time: Callable[..., bool], first: Callable[..., object] | None = None
) -> None:
    """Kill this process before a call of the function for which it is time, after `first`."""
    function = getattr(owner, name)

    def killed(*arguments: Any, **settings: Any) -> Any:
        if is_time(*arguments):
            if first is not None:
                first(*arguments)
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **settings)

    setattr(owner, name, killed)


def train_and_be_killed(arguments: list[str]) -> int:
    """Train on a corpus into a folder whose name is the moment at which to be killed."""
    folder, corpus = map(Path, arguments)
    saves = iter(range(100))

    def half_a_checkpoint(_: object, file: Any) -> None:
        file.write(b"PK")
        file.flush()

    def half_a_line(metrics: Metrics, *_: object) -> None:
        metrics.path.open("a").write('{"step": 8, "lo')

    match folder.name:
        case "in a step":
            # The weights have changed, and nothing else has happened yet.
            kill_before(State, "lap", lambda state: state.progress.step == 8)
        case "after the best weights":
            kill_before(Recovery, "save", lambda recovery: recovery.state.progress.step == 8)
        case "in a checkpoint":
            kill_before(torch, "save", lambda *_: next(saves) == 2, half_a_checkpoint)
        case "before the oldest checkpoint goes":
            kill_before(shutil, "rmtree", lambda path, *_: Path(path).name == "step-00000000")
        case "in a line of metrics.jsonl":
            kill_before(Metrics, "log", lambda *_: next(saves) == 2, half_a_line)
    pretrain(short_run(corpus, folder), "test", Console(quiet=True))
    return 1  # it should have been killed
