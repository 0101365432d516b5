"""The training loop: batch, loss, gradient, update; now and then a look at the val split.

Everything that trains in this package, the ladder's rungs included, trains here.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from gptfast.data.dataset import Mixture
from gptfast.data.loader import (
    IGNORED,
    Loader,
    Prefetcher,
    check_length,
    document_borders,
    windows,
)
from gptfast.errors import RunError, UserError
from gptfast.model import GPT, LanguageModel, build_model
from gptfast.model.folder import load_weights, save_description, save_weights
from gptfast.train.checkpoint import (
    Progress,
    State,
    delete_checkpoints_after,
    load_checkpoint,
    save_checkpoint,
    save_skipped,
)
from gptfast.train.config import TrainConfig
from gptfast.train.display import Display
from gptfast.train.distributed import (
    ALONE,
    World,
    accumulating,
    full,
    full_state,
    load_full_state,
    parallelize,
)
from gptfast.train.evaluate import bits_per_byte, evaluate
from gptfast.train.guards import RECENT, BadStep, check_finite, check_spike
from gptfast.train.hardware import keep_freed_memory
from gptfast.train.metrics import Metrics
from gptfast.train.optim import Optimizer
from gptfast.train.signals import stop_signal

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
    """Wall time of the run, compiling and evaluations included, preparing the data not."""
    tokens_per_second: float
    """Tokens trained on per second of training, evaluations not counted."""
    val_losses: list[float] = field(default_factory=list)
    """Of each corpus, where there are several; val_loss is their mean."""


def begin(config: TrainConfig, data: Mixture, world: World) -> LanguageModel:
    """The model that a run starts from, after trying a step of it, update excepted.

    A model to be sharded isn't tried: it may fit one device only then. Raises UserError if it
    doesn't fit the data or the machine.
    """
    if config.batch_size % (config.micro_batches * world.size):
        raise UserError(
            f"batch_size {config.batch_size} can't be divided into {config.micro_batches} "
            f"micro_batches in each of {world.size} processes: choose a multiple of "
            f"{config.micro_batches * world.size}"
        )
    for part in data.parts:
        corpus = part.report.corpus
        check_length(part.train, config.model.block_size, f"train part of {corpus}")
        check_length(part.val, config.model.block_size, f"val part of {corpus}")
    separator(config, data)  # complains if there is none
    keep_freed_memory(world.device)
    torch.manual_seed(config.seed)
    model = new_model(config, data.tokenizer.n_vocab, world.device)
    if world.size == 1 or config.parallel == "ddp":
        # Dropout's random numbers are given back: trying must not change what is learned.
        with torch.random.fork_rng([world.device] if world.device.type == "cuda" else []):
            try_step(config, data, model, world)
    if not world.is_main:
        torch.manual_seed(config.seed + world.rank)  # their dropout must differ, not their weights
    return model


def new_model(config: TrainConfig, vocab_size: int, device: torch.device) -> LanguageModel:
    """A model with fresh weights, as the configuration wants it trained."""
    model = build_model(config.model_config(vocab_size), config.kernels).to(device)
    if isinstance(model, GPT):
        model.recompute_blocks = config.recompute_blocks
    if config.compile:
        model.compile()
    return model


def try_step(config: TrainConfig, data: Mixture, model: LanguageModel, world: World) -> None:
    """Take a step's gradients, this process's share, and forget them."""
    starts = np.zeros(config.batch_size // world.size, dtype=np.int64)
    x_BT, y_BT = windows(data.parts[0].train, starts, config.model.block_size)
    scaler = gradient_scaler(config, world.device)
    accumulate_gradients(model, x_BT, y_BT, config, scaler, separator=separator(config, data))
    model.zero_grad()
    for moe in model.experts():
        moe.chosen_E.zero_()


def accumulate_gradients(
    engine: nn.Module,
    x_BT: Tensor,
    y_BT: Tensor,
    config: TrainConfig,
    scaler: torch.amp.GradScaler,
    world: World = ALONE,
    separator: int | None = None,
) -> Tensor:
    """Add the gradients of a global batch's mean loss to the parameters'; return that loss.

    engine: the model, or what `parallelize` made of it. This process's share of the batch goes
    through it in config.micro_batches parts. Each counts by its share of all targets that aren't
    IGNORED, so that the result is that of the whole batch at once, in one process; but experts that
    are balanced by a loss are balanced within each part.
    separator: if given, documents begin with it and don't see one another.
    """
    device = next(engine.parameters()).device
    n_targets = (y_BT != IGNORED).sum()
    mean = torch.zeros((), device=device)
    parts = [world.share(t_BT).chunk(config.micro_batches) for t_BT in (x_BT, y_BT)]
    for i, (x, y) in enumerate(zip(*parts, strict=True)):
        weight = ((y != IGNORED).sum() / n_targets).to(device)
        with accumulating(engine, is_last=i == config.micro_batches - 1):
            borders = None if separator is None else document_borders(x, separator).to(device)
            with autocast(config, device):
                loss: Tensor = engine(x.to(device), y.to(device), borders)
            # The engine averages gradients over the processes; what is wanted is their sum.
            scaler.scale(loss * weight * world.size).backward()
        mean += loss.detach() * weight
    return world.sum(mean)


def separator(config: TrainConfig, data: Mixture) -> int | None:
    """The id between documents that mustn't see one another; None if they may.

    Raises UserError if the tokenizer has none.
    """
    if not config.mask_documents:
        return None
    if data.tokenizer.eot_token is None:
        raise UserError(
            "mask_documents: the tokenizer has no end-of-text token to know documents by; "
            "give --no-mask-documents or a BPE tokenizer"
        )
    return data.tokenizer.eot_token


def autocast(config: TrainConfig, device: torch.device) -> torch.autocast:
    """Where matrix products are made in config.dtype."""
    dtype = torch.float16 if config.dtype == "float16" else torch.bfloat16
    return torch.autocast(device.type, dtype, enabled=config.dtype != "float32")


def build_optimizer(config: TrainConfig, model: LanguageModel) -> Optimizer:
    """The optimizer that the configuration asks for."""
    return Optimizer(
        model,
        config.learning_rate,
        config.matrix_learning_rate if config.optimizer == "muon" else None,
        config.weight_decay,
        beta2=config.beta2,
        momentum=config.momentum,
        muon_dtype=getattr(torch, config.dtype),
    )


def train(
    config: TrainConfig,
    data: Mixture,
    model: LanguageModel,
    display: Display,
    world: World,
    clock: Clock,
) -> Result | None:
    """Train `model` into the folder config.out; go on from its newest checkpoint if it has one.

    clock: began when the wall time of this run did. Returns None when SIGINT or SIGTERM ended the
    run early, after saving a checkpoint.
    Raises RunError if steps keep going wrong, or if the last checkpoint can't be saved.
    """
    trainer = Trainer(config, data, model, display, world, clock)
    try:
        return trainer.run()
    finally:
        trainer.loader.close()
        trainer.metrics.close()


class Trainer:
    """A run as it goes: what changes from step to step, and where the results go."""

    def __init__(
        self,
        config: TrainConfig,
        data: Mixture,
        model: LanguageModel,
        display: Display,
        world: World,
        clock: Clock,
    ) -> None:
        self.config = config
        self.world = world
        self.engine = parallelize(model, world, config.parallel)
        self.data = data
        self.model = model
        self.display = display
        self.optimizer = build_optimizer(config, model)
        self.scaler = gradient_scaler(config, world.device)
        self.separator = separator(config, data)
        self.loader = Prefetcher(
            Loader(
                [part.train for part in data.parts],
                config.model.block_size,
                config.batch_size,
                config.seed,
                data.weights,
            )
        )
        self.state = State(model, self.optimizer, self.scaler, self.loader, world)
        self.progress = load_checkpoint(config.out, self.state, display.message) or Progress()
        self.metrics = Metrics(config.out, display.message, world.is_main, config.log_to)
        world.gather(None)  # every process has read the checkpoint before rank 0 tidies up
        if world.is_main:
            delete_checkpoints_after(config.out, self.progress.step)
            save_description(config.out, model.config, data.tokenizer)
        self.metrics.go_back_to(self.progress.step)
        self.clock = clock
        self.interval_tokens, self.interval_seconds = 0, 0.0

    def run(self) -> Result | None:
        """Train to the end, or until a signal comes: then None."""
        config, model = self.config, self.model
        step = self.progress.step
        self.display.message(
            f"model {config.model.architecture}: {model.n_parameters():,} parameters on "
            f"{self.world}, {config.dtype}; " + (f"from step {step}" if step else "from the start")
        )
        self.display.begin(step)
        with stop_signal() as stop:
            while True:
                is_last = self.progress.step == config.max_steps
                if self.world.any(stop.is_set()) and not is_last:
                    self.save(must=True)
                    return None
                try:
                    if self.progress.step % config.eval_interval == 0 or is_last:
                        self.look()
                        self.save(must=is_last)
                    if is_last:
                        break
                    self.display.sample(self.progress.step, model)
                    self.lap()
                    self.step()
                except BadStep as bad:
                    self.roll_back(bad)
        return self.finish()

    def step(self) -> None:
        """One optimizer step. Raises BadStep before the weights have changed."""
        config, progress = self.config, self.progress
        x_BT, y_BT = self.next_batch()
        loss = accumulate_gradients(
            self.engine, x_BT, y_BT, config, self.scaler, self.world, self.separator
        )
        for optimizer, _ in self.optimizer.parts:
            self.scaler.unscale_(optimizer)
        grad_norm = full(nn.utils.clip_grad_norm_(self.model.parameters(), config.grad_clip))
        # A scaled gradient may overflow; then there is no update, and the scale becomes smaller.
        overflowed = self.scaler.is_enabled() and not math.isfinite(grad_norm.item())
        if not (overflowed and math.isfinite(loss.item())):
            check_finite(loss, grad_norm, self.model)
        check_spike(loss.item(), progress.recent, config.spike)
        factor = config.lr_factor(progress.step)
        if overflowed:
            self.model.zero_grad()
        else:
            self.optimizer.step(factor)
        self.scaler.update()
        expert_shares = []
        for moe in self.model.experts():
            self.world.sum(moe.chosen_E)
            expert_shares.append(moe.end_step().tolist())
        progress.step += 1

        progress.losses.append(loss.item())
        progress.recent = [*progress.recent, loss.item()][-RECENT:]
        seconds = self.lap()
        progress.training_seconds += seconds
        self.interval_tokens += x_BT.numel()
        self.interval_seconds += seconds
        if progress.step % LOG_INTERVAL == 0 or progress.step == config.max_steps:
            self.log(factor, grad_norm.item(), expert_shares)

    def next_batch(self) -> tuple[Tensor, Tensor]:
        """The next batch that is not to be skipped."""
        while True:
            batch = self.loader.next_batch()
            self.progress.batches += 1
            if self.progress.batches - 1 not in self.progress.skipped:
                return batch

    def log(self, factor: float, grad_norm: float, expert_shares: list[list[float]]) -> None:
        """A line of metrics.jsonl and of the display, on the steps since the last one."""
        progress = self.progress
        mean_loss = sum(progress.losses) / len(progress.losses)
        speed = self.interval_tokens / self.interval_seconds
        measured = {
            "loss": mean_loss,
            "learning_rate": self.config.learning_rate * factor,
            "grad_norm": grad_norm,
            "tokens_per_second": speed,
        }
        self.metrics.log(
            step=progress.step,
            **measured,
            seconds=progress.seconds,
            **({"expert_shares": expert_shares} if expert_shares else {}),
        )
        self.display.step(progress.step, **measured)
        progress.losses, self.interval_tokens, self.interval_seconds = [], 0, 0.0

    def look(self) -> None:
        """Evaluate on val; keep the weights if they are the best so far. Raises BadStep."""
        config, progress = self.config, self.progress
        val_losses = self.evaluate(config.eval_windows)
        val_loss = self.data.mean(val_losses)
        if not math.isfinite(val_loss):
            raise BadStep(f"the val loss is {val_loss}")
        val_bpb = bits_per_byte(val_loss, self.data.val_bytes_per_token)
        self.lap()
        self.metrics.log(
            step=progress.step,
            val_loss=val_loss,
            val_bits_per_byte=val_bpb,
            seconds=progress.seconds,
            **({"val_losses": val_losses} if len(val_losses) > 1 else {}),
        )
        each = "" if len(val_losses) == 1 else f" ({', '.join(f'{x:.4f}' for x in val_losses)})"
        self.display.message(
            f"step {progress.step}: val loss {val_loss:.4f}{each} nats/token, {val_bpb:.3f} "
            f"bits/byte, {progress.seconds:.0f} s"
        )
        if val_loss < progress.best_val_loss and self.save_best():
            progress.best_val_loss, progress.best_step = val_loss, progress.step
        self.display.look(val_loss, progress.best_val_loss, progress.best_step)

    def evaluate(self, max_windows: int | None = None) -> list[float]:
        """The val loss of each part of the data."""
        return [
            evaluate(
                self.model, part.val, max_windows=max_windows, world=self.world,
                batch_size=self.config.micro_batch_size // self.world.size,
                separator=self.separator,
            )
            for part in self.data.parts
        ]  # fmt: skip

    def save_best(self) -> bool:
        """Write the weights as model.safetensors; return whether that was possible."""
        state = full_state(self.model)
        failed = False
        if self.world.is_main:
            try:
                save_weights(self.model, self.config.out / "model.safetensors", state)
            except OSError as error:
                failed = True
                self.display.message(
                    f"can't save the best weights so far ({error}): the run goes on; those of "
                    f"step {self.progress.best_step} stay"
                )
        return not self.world.any(failed)

    def save(self, *, must: bool) -> None:
        """Save a checkpoint. If that fails the run goes on, but for one that `must` be saved.

        Raises RunError for such a one.
        """
        self.lap()
        try:
            save_checkpoint(
                self.config.out, self.state, self.progress, self.config.keep_checkpoints
            )
        except OSError as error:
            what = f"can't save the checkpoint of step {self.progress.step} ({error})"
            if must:
                raise RunError(
                    f"{what}: free some space and give --resume to go on from the one before"
                ) from error
            self.display.message(f"{what}: the run goes on; the one before stays")

    def roll_back(self, bad: BadStep) -> None:
        """Return to the newest checkpoint, and skip the batch that `bad` came from.

        Raises RunError if that has happened too often.
        """
        config, progress = self.config, self.progress
        where = f"step {progress.step + 1}: {bad}"
        if len(progress.skipped) >= config.max_rollbacks:
            raise RunError(
                f"{where}. {len(progress.skipped)} batches were skipped already: giving up; "
                f"{config.out} keeps the last good checkpoint. Try a lower --learning-rate (now "
                f"{config.learning_rate:g}) and --matrix-learning-rate (now "
                f"{config.matrix_learning_rate:g}) or a longer --warmup-steps "
                f"(now {config.warmup_steps})"
            ) from bad
        self.model.zero_grad()
        skipped = sorted({*progress.skipped, max(progress.batches - 1, 0)})
        self.lap()
        seconds = progress.seconds
        self.world.gather(None)  # rank 0 may be writing still
        good = load_checkpoint(config.out, self.state, self.display.message)
        if good is None:
            raise RunError(f"{where}, and no checkpoint could be saved to go back to") from bad
        self.progress = good
        self.progress.skipped = skipped
        self.progress.seconds = seconds
        if self.world.is_main:
            delete_checkpoints_after(config.out, good.step)  # damaged ones that were passed over
            try:
                save_skipped(config.out, skipped)
            except OSError as error:
                self.display.message(f"can't note which batches are skipped ({error})")
        self.metrics.go_back_to(self.progress.step)
        self.interval_tokens, self.interval_seconds = 0, 0.0
        self.display.begin(self.progress.step)
        self.display.message(
            f"{where}: back to step {self.progress.step}, and without batch {skipped[-1]} from "
            f"there"
        )

    def finish(self) -> Result:
        """Evaluate the best weights on the whole val split."""
        config, progress = self.config, self.progress
        self.display.message(
            f"evaluating the weights of step {progress.best_step} on the whole val split"
        )
        load_weights(self.model, config.out / "model.safetensors", load_full_state)
        val_losses = self.evaluate()
        val_loss = self.data.mean(val_losses)
        self.lap()
        tokens = progress.step * config.batch_size * config.model.block_size
        return Result(
            steps=progress.step,
            best_step=progress.best_step,
            val_loss=val_loss,
            val_bits_per_byte=bits_per_byte(val_loss, self.data.val_bytes_per_token),
            seconds=progress.seconds,
            tokens_per_second=tokens / progress.training_seconds,
            val_losses=val_losses if len(val_losses) > 1 else [],
        )

    def lap(self) -> float:
        """Count the time since the last lap as spent on this run, and return it."""
        seconds = self.clock.lap()
        self.progress.seconds += seconds
        return seconds


class Clock:
    """Counts every second once: each lap begins where the one before ended."""

    def __init__(self) -> None:
        self.last = time.monotonic()

    def lap(self) -> float:
        """Seconds since the clock was made or last read."""
        before, self.last = self.last, time.monotonic()
        return self.last - before


def gradient_scaler(config: TrainConfig, device: torch.device) -> torch.amp.GradScaler:
    """What keeps float16's small gradients from vanishing; does nothing for the other dtypes."""
    return torch.amp.GradScaler(device.type, enabled=config.dtype == "float16")
