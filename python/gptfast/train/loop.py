"""The training loop: evaluate, save, sample, draw a batch, take a step, log.

Everything that trains in this package, the ladder's rungs included, trains here. The source and the
objective (train/objective.py) decide what is learned, and from which data. train/recovery.py
handles failures.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from gptfast.data.batch import Batch
from gptfast.data.loader import Prefetcher
from gptfast.errors import RunError
from gptfast.model.base import LanguageModel
from gptfast.model.folder import load_weights
from gptfast.system.memory import peak_memory
from gptfast.system.signals import Stop
from gptfast.train.checkpoint import Clock, State
from gptfast.train.config import RunConfig
from gptfast.train.display import Display, Sampler
from gptfast.train.distributed import World, load_full_state, parallelize
from gptfast.train.metrics import Metrics
from gptfast.train.objective import Evaluation, Objective, Source
from gptfast.train.optim import build_optimizer
from gptfast.train.recovery import RECENT, BadStep, Recovery
from gptfast.train.step import StepResult, gradient_scaler, train_step

LOG_INTERVAL = 10
"""Steps per line of metrics.jsonl; the loss in it is their mean."""


@dataclass(frozen=True)
class Result:
    """What a finished run reached."""

    steps: int
    best_step: int
    val_loss: float
    """The objective's loss on all of its val data, by the best weights."""
    seconds: float
    """Wall time of the run, compiling and evaluations included, preparing the data not."""
    tokens_per_second: float
    """Tokens trained on per second of training, evaluations not counted."""
    measured: dict[str, Any] = field(default_factory=dict)
    """What else the last evaluation measured, such as val_bits_per_byte."""


class Trainer:
    """A run as it goes, into the folder config.out. To be closed at the end."""

    def __init__(
        self,
        config: RunConfig,
        model: LanguageModel,
        source: Source,
        objective: Objective,
        display: Display,
        metrics: Metrics,
        world: World,
        clock: Clock,
        sampler: Sampler | None = None,
    ) -> None:
        """clock: started when the wall time of this run did. sampler: None for no samples."""
        self.config, self.world = config, world
        self.engine = parallelize(model, world, config.parallel)
        self.objective, self.display = objective, display
        self.state = State(
            model,
            build_optimizer(config, model),
            gradient_scaler(config.resolved_dtype, world.device),
            Prefetcher(source),
            objective,
            world,
            clock,
        )
        self.metrics, self.sampler = metrics, sampler
        self.recovery = Recovery(config, self.state, metrics, display)
        self.interval_tokens, self.interval_seconds = 0, 0.0

    def run(self, stop: Stop) -> Result | None:
        """Train to the end, from the newest checkpoint in config.out if there is one.

        stop: the flag that a signal sets; the run then saves a checkpoint and returns None. Raises
        RunError if steps keep going wrong, or if the last checkpoint can't be saved.
        """
        config, state = self.config, self.state
        self.recovery.resume_or_begin()
        self.announce()
        checkpoint_interval = config.checkpoint_interval or config.eval_interval
        while True:
            step = state.progress.step
            is_last = step == config.max_steps
            # All processes must leave the loop at the same step, so they ask one another.
            if self.world.any(stop.is_wanted) and not is_last:
                self.recovery.save(must=True)
                return None
            try:
                # Before the step, so that step 0 measures the untrained model.
                is_evaluated = is_last or step % config.eval_interval == 0
                if is_evaluated:
                    self.evaluate()
                if is_evaluated or step % checkpoint_interval == 0:
                    self.recovery.save(must=is_last)
                self.sample()
                if is_last:
                    break
                state.lap()
                self.step()
            except BadStep as bad:
                self.recovery.roll_back(bad)
                self.interval_tokens, self.interval_seconds = 0, 0.0
        try:
            with stop.at_once():
                return self.finish()
        except KeyboardInterrupt:  # the last step is saved
            return None

    def close(self) -> None:
        """End the thread that draws batches."""
        self.state.source.close()

    def announce(self) -> None:
        """Print the model, the device, and where the run starts."""
        model, step = self.state.model, self.state.progress.step
        start = f"from step {step}" if step else "from the start"
        n_trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        n_all = sum(p.numel() for p in model.parameters())  # the frozen ones too
        if model.quantized:
            n_all = model.n_parameters()
        trained = "" if n_trained == n_all else f", {n_trained:,} of them trained,"
        self.display.message(
            f"model {model.config.architecture}: {n_all:,} parameters{trained} on {self.world}, "
            f"{self.config.resolved_dtype}; {start}"
        )
        self.display.begin(step)

    def step(self) -> None:
        """Take one optimizer step. Raises BadStep before the weights have changed."""
        config, state, progress = self.config, self.state, self.state.progress
        # Every process draws the same batch and takes its own rows: (B, T) -> (B / size, T).
        share = self.next_batch().share(self.world.rank, self.world.size)
        batch = self.objective.prepare(state.model, share)
        factor = config.lr_factor(progress.step)
        result = train_step(
            self.engine,
            batch,
            state.optimizer,
            self.objective,
            state.scaler,
            lr_factor=factor,
            grad_clip=config.grad_clip,
            micro_batch_size=config.windows_at_a_time(self.world.size),
            dtype=config.resolved_dtype,
            world=self.world,
            check=self.recovery.check,
        )
        counted = state.model.end_step(self.world.sum)
        progress.step += 1
        progress.losses.append(result.loss)
        # What the next losses are compared with, to notice a spike.
        progress.recent = [*progress.recent, result.loss][-RECENT:]
        seconds = state.lap()
        progress.training_seconds += seconds
        tokens = batch.ids_BT.numel() * self.world.size
        progress.tokens += tokens
        self.interval_tokens += tokens
        self.interval_seconds += seconds
        if progress.step % LOG_INTERVAL == 0 or progress.step == config.max_steps:
            self.log(factor, result, counted)

    def next_batch(self) -> Batch:
        """Return the next batch that is not to be skipped."""
        progress = self.state.progress
        while True:
            batch = self.state.source.next_batch()
            progress.batches += 1
            if progress.batches - 1 not in progress.skipped:
                return batch

    def log(self, factor: float, result: StepResult, counted: dict[str, Any]) -> None:
        """Write a line to metrics.jsonl and the display, on the steps since the last line."""
        progress = self.state.progress
        measured = {
            "loss": sum(progress.losses) / len(progress.losses),
            "learning_rate": self.config.learning_rate * factor,
            "grad_norm": result.grad_norm,
            "tokens_per_second": self.interval_tokens / self.interval_seconds,
            "peak_memory": peak_memory(self.world.device),
        }
        counted = counted | self.objective.measured(self.world)
        self.metrics.log(progress.step, **measured, seconds=progress.seconds, **counted)
        self.display.step(progress.step, **measured)
        progress.losses, self.interval_tokens, self.interval_seconds = [], 0, 0.0

    def evaluate(self) -> None:
        """Evaluate, and keep the weights if they are the best so far. Raises BadStep."""
        progress = self.state.progress
        result = self.evaluation(whole=False)
        if not math.isfinite(result.loss):
            raise BadStep(f"the val loss before it is {result.loss}")
        self.state.lap()
        self.metrics.log(
            progress.step, val_loss=result.loss, **result.measured, seconds=progress.seconds
        )
        self.display.message(f"step {progress.step}: {result.summary}, {progress.seconds:.0f} s")
        if result.loss < progress.best_val_loss:
            self.recovery.save_best(result.loss)
        self.display.evaluation(result.loss, progress.best_val_loss, progress.best_step)

    def sample(self) -> None:
        """Log and show a sample of the model, if one is due."""
        step = self.state.progress.step
        if self.sampler is not None and self.sampler.is_due(step):
            text = self.sampler.sample(self.state.model)
            self.metrics.log_sample(step, text)
            self.display.sample(step, text)

    def evaluation(self, *, whole: bool) -> Evaluation:
        """Measure the model as it is now."""
        return self.objective.evaluate(self.state.model, self.world, whole=whole)

    def finish(self) -> Result:
        """Evaluate the best weights on all val data, or the last weights if those are damaged.

        Raises RunError if the last can't be saved in their place.
        """
        config, progress = self.config, self.state.progress
        best = config.out / self.state.model.stored.weights_file
        if not self.recovery.find_best():
            self.display.message(
                f"{best} does not match its checksum: the weights of the last step replace it"
            )
            self.recovery.save_best(self.evaluation(whole=False).loss)
            if not self.recovery.find_best():
                raise RunError(f"can't save {best}: free some space and give --resume")
        self.display.message(
            f"evaluating the weights of step {progress.best_step} on the whole val split"
        )
        load_weights(self.state.model, best, load_full_state)
        result = self.evaluation(whole=True)
        self.state.lap()
        return Result(
            steps=progress.step,
            best_step=progress.best_step,
            val_loss=result.loss,
            seconds=progress.seconds,
            tokens_per_second=progress.tokens / progress.training_seconds,
            measured=result.measured,
        )
