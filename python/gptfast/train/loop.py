"""The training loop: batch, loss, gradient, update; now and then a look at the val split.

Everything that trains in this package, the ladder's rungs included, trains here.
"""

from __future__ import annotations

import json
import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gptfast.data.loader import Loader, check_length, windows
from gptfast.data.prepare import Dataset
from gptfast.errors import RunError
from gptfast.fsync import write_text_atomically
from gptfast.model import LanguageModel, build_model
from gptfast.model.device import resolve_device
from gptfast.model.folder import load_weights, save_description, save_weights
from gptfast.train.checkpoint import Progress, load_checkpoint, save_checkpoint
from gptfast.train.config import TrainConfig
from gptfast.train.display import Display
from gptfast.train.evaluate import bits_per_byte, evaluate
from gptfast.train.optim import Optimizer
from gptfast.train.schedule import lr_factor

LOG_INTERVAL = 10
"""Steps per line of metrics.jsonl; the loss in it is their mean."""


@dataclass(frozen=True)
class Result:
    """What a finished run reached."""

    steps: int
    best_step: int
    val_loss: float
    """Nats per token over the whole val split, by the weights in model.safetensors."""
    val_bits_per_byte: float
    seconds: float
    """Wall time of the run, evaluations included, preparing the data not."""
    tokens_per_second: float
    """Tokens trained on per second of training, evaluations not counted."""


def begin(config: TrainConfig, data: Dataset) -> LanguageModel:
    """The model that a run starts from, after trying a step of it, update excepted.

    Raises UserError if it doesn't fit the data or the machine.
    """
    device = resolve_device(config.device)
    check_length(data.train, config.block_size, "train")
    check_length(data.val, config.block_size, "val")
    torch.manual_seed(config.seed)
    model = build_model(config.model_config(data.tokenizer.n_vocab), config.kernels).to(device)
    starts = np.zeros(config.batch_size, dtype=np.int64)
    x_BT, y_BT = windows(data.train, starts, config.block_size)
    # Dropout's random numbers are given back: trying must not change what is learned.
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        training_loss(model, x_BT, y_BT, config).backward()  # type: ignore[no-untyped-call]
    model.zero_grad()
    return model


def training_loss(model: LanguageModel, x_BT: Tensor, y_BT: Tensor, config: TrainConfig) -> Tensor:
    """The loss of a batch, its matrix products in config.dtype."""
    device = next(model.parameters()).device
    with torch.autocast(device.type, torch.bfloat16, enabled=config.dtype == "bfloat16"):
        loss: Tensor = model(x_BT.to(device), y_BT.to(device))
    return loss


def train(
    config: TrainConfig, data: Dataset, model: LanguageModel, display: Display
) -> Result | None:
    """Train `model` into the folder config.out; go on from its newest checkpoint if it has one.

    Returns None when SIGINT or SIGTERM ended the run early, after saving a checkpoint.
    Raises RunError if a loss or a gradient is not finite.
    """
    device = next(model.parameters()).device
    optimizer = Optimizer(
        model, config.learning_rate, config.matrix_learning_rate, config.weight_decay
    )
    loader = Loader(data.train, config.block_size, config.batch_size, config.seed)
    progress = load_checkpoint(config.out, model, optimizer, loader)
    save_description(config.out, model.config, data.tokenizer)
    metrics = Metrics(config.out / "metrics.jsonl", keep_until=progress.step)
    display.message(
        f"model {config.architecture}: {model.n_parameters():,} parameters on {device}, "
        f"{config.dtype}; " + (f"from step {progress.step}" if progress.step else "from the start")
    )
    display.begin(progress.step)
    clock = Clock()
    interval_tokens, interval_seconds = 0, 0.0

    with stop_signal() as stop:
        while True:
            last = progress.step == config.max_steps
            if stop.is_set() and not last:
                progress.seconds += clock.lap()
                save_checkpoint(config.out, model, optimizer, loader, progress)
                return None
            if progress.step % config.eval_interval == 0 or last:
                look(config, data, model, progress, metrics, display)
                progress.seconds += clock.lap()
                save_checkpoint(config.out, model, optimizer, loader, progress)
            if last:
                break

            x_BT, y_BT = loader.next_batch()
            loss = training_loss(model, x_BT, y_BT, config)
            loss.backward()  # type: ignore[no-untyped-call]
            grad_norm = torch.nn.utils.clip_grad_norm_(model.parameters(), config.grad_clip)
            check_finite(loss, grad_norm, model, progress, config)
            factor = lr_factor(progress.step, config.warmup_steps, config.max_steps)
            optimizer.step(factor)
            progress.step += 1

            progress.losses.append(loss.item())
            seconds = clock.lap()
            progress.seconds += seconds
            progress.training_seconds += seconds
            interval_tokens += x_BT.numel()
            interval_seconds += seconds
            if progress.step % LOG_INTERVAL == 0 or progress.step == config.max_steps:
                mean_loss = sum(progress.losses) / len(progress.losses)
                speed = interval_tokens / interval_seconds
                metrics.write(
                    step=progress.step, loss=mean_loss, learning_rate=config.learning_rate * factor,
                    grad_norm=grad_norm.item(), tokens_per_second=speed, seconds=progress.seconds,
                )  # fmt: skip
                display.step(progress.step, mean_loss, speed)
                progress.losses, interval_tokens, interval_seconds = [], 0, 0.0

    display.message(f"evaluating the weights of step {progress.best_step} on the whole val split")
    load_weights(model, config.out / "model.safetensors")
    val_loss = evaluate(model, data.val, batch_size=config.batch_size)
    tokens = progress.step * config.batch_size * config.block_size
    return Result(
        steps=progress.step,
        best_step=progress.best_step,
        val_loss=val_loss,
        val_bits_per_byte=bits_per_byte(val_loss, data.val_bytes_per_token),
        seconds=progress.seconds + clock.lap(),
        tokens_per_second=tokens / progress.training_seconds,
    )


def look(
    config: TrainConfig,
    data: Dataset,
    model: LanguageModel,
    progress: Progress,
    metrics: Metrics,
    display: Display,
) -> None:
    """Evaluate on val; keep the weights if they are the best so far. Raises RunError."""
    val_loss = evaluate(
        model, data.val, batch_size=config.batch_size, max_windows=config.eval_windows
    )
    if not math.isfinite(val_loss):
        raise RunError(f"step {progress.step}: the val loss is {val_loss}. {_advice(config)}")
    val_bpb = bits_per_byte(val_loss, data.val_bytes_per_token)
    metrics.write(step=progress.step, val_loss=val_loss, val_bits_per_byte=val_bpb)
    display.message(
        f"step {progress.step}: val loss {val_loss:.4f} nats/token, {val_bpb:.3f} bits/byte, "
        f"{progress.seconds:.0f} s"
    )
    if val_loss < progress.best_val_loss:
        progress.best_val_loss, progress.best_step = val_loss, progress.step
        save_weights(model, config.out / "model.safetensors")


def check_finite(
    loss: Tensor, grad_norm: Tensor, model: LanguageModel, progress: Progress, config: TrainConfig
) -> None:
    """Raise RunError before a NaN or an infinity reaches the weights; say where it came from."""
    if math.isfinite(loss.item()) and math.isfinite(grad_norm.item()):
        return
    broken = [n for n, p in model.named_parameters() if not p.isfinite().all()]
    gradients = [
        n for n, p in model.named_parameters() if p.grad is not None and not p.grad.isfinite().all()
    ]
    where = (
        f"the weights {broken[0]} are not finite" if broken
        else f"{len(gradients)} gradients are not finite, the first is that of {gradients[0]}"
        if gradients
        else "weights and gradients are finite"
    )  # fmt: skip
    raise RunError(
        f"step {progress.step + 1}: loss is {loss.item()}, gradient norm {grad_norm.item()}; "
        f"{where}. The update was not made. {_advice(config)}"
    )


def _advice(config: TrainConfig) -> str:
    return (
        f"{config.out} keeps the last good checkpoint. "
        f"Try a lower --learning-rate (now {config.learning_rate:g}) and --matrix-learning-rate "
        f"(now {config.matrix_learning_rate:g}) or a longer --warmup-steps "
        f"(now {config.warmup_steps})"
    )


class Clock:
    """Counts every second once: each lap begins where the one before ended."""

    def __init__(self) -> None:
        self.last = time.monotonic()

    def lap(self) -> float:
        """Seconds since the clock was made or last read."""
        before, self.last = self.last, time.monotonic()
        return self.last - before


class Metrics:
    """metrics.jsonl: one JSON object per line, appended as the run goes."""

    def __init__(self, path: Path, keep_until: int) -> None:
        """Open the file; lines of steps after `keep_until`, from before a resume, are dropped."""
        self.path = path
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        kept = [line for line in lines if _is_up_to(line, keep_until)]
        write_text_atomically(path, "".join(line + "\n" for line in kept))

    def write(self, **values: Any) -> None:
        """Append one line."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")


def _is_up_to(line: str, step: int) -> bool:
    try:
        # A look at val happens before the step that follows it, and will be repeated.
        values = json.loads(line)
        return bool(values["step"] < step or (values["step"] == step and "loss" in values))
    except (json.JSONDecodeError, KeyError):
        return False  # cut short when the run was killed


@contextmanager
def stop_signal() -> Iterator[threading.Event]:
    """An event that SIGINT or SIGTERM sets, instead of ending the process in the middle of a step.

    The second SIGINT raises KeyboardInterrupt as usual.
    """
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # only the main thread may handle signals
        return

    def handle(number: int, frame: FrameType | None) -> None:
        stop.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
