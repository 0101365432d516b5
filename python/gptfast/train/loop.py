"""The training loop: batch, loss, gradient, update; now and then a look at the val split.

Everything that trains in this package, the ladder's rungs included, trains here; only
`gptfast.bench train`, which has to do without most of the package, has a loop of its own.
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
from gptfast.model.folder import load_weights, save_description
from gptfast.system.signals import stop_signal
from gptfast.train.checkpoint import (
    Progress,
    State,
    adopt_best,
    delete_checkpoints_after,
    delete_half_written,
    load_checkpoint,
    read_best,
    save_best,
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
from gptfast.train.hardware import keep_freed_memory, peak_memory
from gptfast.train.metrics import Metrics
from gptfast.train.optim import Optimizer

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
    config.micro_batches(world.size)  # complains if the batch can't be divided
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
    model = build_model(config.model_config(vocab_size)).to(device)
    if isinstance(model, GPT):
        model.activation_checkpointing = config.recompute_blocks
    if config.compile:
        model.compile()
    return model


def try_step(config: TrainConfig, data: Mixture, model: LanguageModel, world: World) -> None:
    """Take a step's gradients, this process's share, and forget them."""
    starts = np.zeros(config.batch_size // world.size, dtype=np.int64)
    x_BT, y_BT = windows(data.parts[0].train, starts, config.model.block_size)
    scaler = gradient_scaler(config, world.device)
    accumulate_gradients(model, x_BT, y_BT, config, scaler, separator=separator(config, data))
    forget_step(model)


def forget_step(model: LanguageModel) -> None:
    """Leave no trace of the forward and backward passes since the last update."""
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
    through it config.micro_batch_size windows at a time. Each part counts by its share of all
    targets that aren't IGNORED, so that the result is that of the whole batch at once, in one
    process; but experts that are balanced by a loss are balanced within each part.
    separator: if given, documents begin with it and don't see one another.
    """
    device = next(engine.parameters()).device
    n_targets = (y_BT != IGNORED).sum()
    mean = torch.zeros((), device=device)
    at_a_time = config.windows_at_a_time(world.size)
    split = [torch.split(world.share(t_BT), at_a_time) for t_BT in (x_BT, y_BT)]
    parts = list(zip(*split, strict=True))
    for i, (x, y) in enumerate(parts):
        share = (y != IGNORED).sum() / n_targets  # on the CPU, where looking waits for nothing
        weight = share.to(device)
        with accumulating(engine, is_last=i == len(parts) - 1):
            borders = None if separator is None else document_borders(x, separator).to(device)
            with autocast(config, device):
                loss: Tensor = engine(x.to(device), y.to(device), borders)
            # The engine averages gradients over the processes; what is wanted is their sum.
            scaler.scale(loss * weight * world.size).backward()
        if share > 0:  # else the loss is the mean of nothing, NaN, and its gradients are 0
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


class Trainer:
    """A run as it goes: what changes from step to step, and where the results go.

    It trains into the folder config.out, and goes on from the newest checkpoint there if there is
    one. To be closed at the end.
    """

    def __init__(
        self,
        config: TrainConfig,
        data: Mixture,
        model: LanguageModel,
        display: Display,
        world: World,
        clock: Clock,
    ) -> None:
        """clock: began when the wall time of this run did."""
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
        if world.is_main:
            adopt_best(config.out, self.progress)
        if not self.find_best() and (config.out / "model.safetensors").exists():
            display.message(
                f"{config.out / 'model.safetensors'} is not what was written: those of the next "
                f"look at val take its place"
            )
        self.metrics = Metrics(config.out, display.message, world.is_main, config.log_to)
        world.gather(None)  # every process has read the checkpoint before rank 0 tidies up
        if world.is_main:
            delete_checkpoints_after(config.out, self.progress.step)
            delete_half_written(config.out)
            save_description(config.out, model.config, data.tokenizer)
        self.metrics.go_back_to(self.progress.step)
        self.checkpoint_interval = config.checkpoint_interval or config.eval_interval
        self.loaded_batches = self.progress.batches
        self.n_rollbacks = 0
        self.clock = clock
        self.interval_tokens, self.interval_seconds = 0, 0.0

    def run(self) -> Result | None:
        """Train to the end, or until SIGINT or SIGTERM comes: then save a checkpoint, return None.

        Raises RunError if steps keep going wrong, or if the last checkpoint can't be saved.
        """
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
                if self.world.any(stop.is_wanted) and not is_last:
                    self.save(must=True)
                    return None
                is_looked_at = self.progress.step % config.eval_interval == 0 or is_last
                try:
                    if is_looked_at:
                        self.look()
                    if is_looked_at or self.progress.step % self.checkpoint_interval == 0:
                        self.save(must=is_last)
                    if is_last:
                        break
                    self.display.sample(self.progress.step, model)
                    self.lap()
                    self.step()
                except BadStep as bad:
                    self.roll_back(bad)
        return self.finish()

    def close(self) -> None:
        """End the thread that draws batches, and have the trackers write what they hold."""
        self.loader.close()
        self.metrics.close()

    def step(self) -> None:
        """One optimizer step. Raises BadStep before the weights have changed."""
        config, progress = self.config, self.progress
        x_BT, y_BT = self.next_batch()
        loss = accumulate_gradients(
            self.engine, x_BT, y_BT, config, self.scaler, self.world, self.separator
        )
        for optimizer, _ in self.optimizer.parts:
            self.scaler.unscale_(optimizer)
        parameters = list(self.model.parameters())
        norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        grad_norm = full(norm)
        # A scaled gradient may overflow; then there is no update, and the scale becomes smaller.
        # But what overflows unscaled, too, is no fault of the scale.
        overflowed = self.scaler.is_enabled() and not math.isfinite(grad_norm.item())
        if not (overflowed and math.isfinite(loss.item()) and self.scaler.get_scale() > 1):
            check_finite(loss, grad_norm, self.model)
        check_spike(loss.item(), progress.recent, config.spike)
        nn.utils.clip_grads_with_norm_(parameters, config.grad_clip, norm)
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
            "peak_memory": peak_memory(self.world.device),
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
            raise BadStep(f"the val loss before it is {val_loss}")
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
        if val_loss < progress.best_val_loss:
            self.save_best(val_loss)
        self.display.look(val_loss, progress.best_val_loss, progress.best_step)

    def evaluate(self, max_windows: int | None = None) -> list[float]:
        """The val loss of each part of the data."""
        return [
            evaluate(
                self.model, part.val, max_windows=max_windows, world=self.world,
                batch_size=self.config.windows_at_a_time(self.world.size),
                separator=self.separator,
            )
            for part in self.data.parts
        ]  # fmt: skip

    def save_best(self, val_loss: float) -> None:
        """Write the weights as model.safetensors, if that is possible."""
        weights = full_state(self.model)
        failed = False
        if self.world.is_main:
            try:
                save_best(self.config.out, self.model, weights, val_loss, self.progress.step)
            except OSError as error:
                failed = True
                self.display.message(
                    f"can't save the best weights so far ({error}): the run goes on"
                )
        if self.world.any(failed):
            self.find_best()  # the older ones, or none
        else:
            self.progress.best_val_loss, self.progress.best_step = val_loss, self.progress.step

    def find_best(self) -> bool:
        """Learn whose weights model.safetensors holds; return False if it is damaged."""
        found = read_best(self.config.out) if self.world.is_main else None
        (best, *_) = self.world.gather(found)
        self.progress.best_val_loss, self.progress.best_step = best or (math.inf, 0)
        return best is not None

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

        Raises RunError if that has happened too often, or if there is no such batch.
        """
        config, progress = self.config, self.progress
        where = f"step {progress.step + 1}: {bad}"
        if progress.batches == self.loaded_batches:
            raise RunError(
                f"{where}. No batch came before it that could be skipped: what computes is at "
                f"fault; try another --kernels or --device, or --no-compile"
            ) from bad
        skipped = sorted({*progress.skipped, progress.batches - 1})
        if self.world.is_main:
            try:
                save_skipped(config.out, skipped)
            except OSError as error:
                self.display.message(f"can't note which batches are skipped ({error})")
        if self.n_rollbacks == config.max_rollbacks:
            raise RunError(
                f"{where}. {self.n_rollbacks} batches were skipped already: giving up; "
                f"{config.out} keeps the last good checkpoint. Go on from it without this batch, "
                f"too, by --resume, perhaps with a higher --max-rollbacks (now "
                f"{config.max_rollbacks}) or --spike (now {config.spike:g}), or a lower "
                f"--learning-rate (now {config.learning_rate:g}) and --matrix-learning-rate (now "
                f"{config.matrix_learning_rate:g})"
            ) from bad
        self.n_rollbacks += 1
        forget_step(self.model)
        # What it knows of the bad step, a scaler forgets only in update().
        self.scaler = self.state.scaler = gradient_scaler(config, self.world.device)
        self.lap()
        seconds = progress.seconds
        self.world.gather(None)  # rank 0 may be writing still
        good = load_checkpoint(config.out, self.state, self.display.message)
        if good is None:
            raise RunError(f"{where}, and no checkpoint could be saved to go back to") from bad
        self.progress = good
        self.progress.skipped = skipped
        self.progress.seconds = seconds
        # model.safetensors isn't rolled back, and may be newer than a checkpoint that failed.
        good.best_val_loss, good.best_step = progress.best_val_loss, progress.best_step
        self.loaded_batches = good.batches
        if self.world.is_main:
            delete_checkpoints_after(config.out, good.step)  # damaged ones that were passed over
        self.metrics.go_back_to(self.progress.step)
        self.interval_tokens, self.interval_seconds = 0, 0.0
        self.display.begin(self.progress.step)
        self.display.message(
            f"{where}: back to step {self.progress.step}, and without batch {skipped[-1]} from "
            f"there"
        )

    def finish(self) -> Result:
        """Evaluate the best weights on the whole val split, or the last, if those are damaged.

        Raises RunError if these can't be saved in their place.
        """
        config, progress = self.config, self.progress
        best = config.out / "model.safetensors"
        if not self.find_best():
            self.display.message(
                f"{best} is not what was written: the weights of the last step take its place"
            )
            self.save_best(val_loss=self.data.mean(self.evaluate(config.eval_windows)))
            if not self.find_best():
                raise RunError(f"can't save {best}: free some space and give --resume")
        self.display.message(
            f"evaluating the weights of step {progress.best_step} on the whole val split"
        )
        load_weights(self.model, best, load_full_state)
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
