"""Checkpoints, best weights, and rollback after a failed step.

A step fails if its loss or a gradient is not finite, or if the loss jumps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

from gptfast.errors import RunError
from gptfast.model.base import LanguageModel
from gptfast.train.checkpoint import (
    State,
    delete_checkpoints_after,
    delete_half_written,
    load_checkpoint,
    read_best,
    save_best,
    save_checkpoint,
    save_skipped,
)
from gptfast.train.config import RunConfig
from gptfast.train.display import Display
from gptfast.train.distributed import full_state
from gptfast.train.metrics import Metrics
from gptfast.train.step import StepResult, gradient_scaler

RECENT = 50
"""Number of past steps whose mean loss a new loss is compared with."""


class BadStep(Exception):
    """A step that must be undone. The message says what is wrong with it."""


class Recovery:
    """Saves the state of a run to config.out, and restores it from there."""

    def __init__(self, config: RunConfig, state: State, metrics: Metrics, display: Display) -> None:
        self.config = config
        self.state = state
        self.metrics = metrics
        self.display = display
        self.loaded_batches = 0
        """Number of batches drawn when the state was last loaded."""
        self.n_rollbacks = 0

    def resume_or_begin(self) -> None:
        """Load the newest checkpoint, if any, and delete leftovers of later steps."""
        config, world = self.config, self.state.world
        load_checkpoint(config.out, self.state, self.display.message)
        progress = self.state.progress
        best = config.out / self.state.model.stored.weights_file
        if not self.find_best() and best.exists():
            self.display.message(
                f"{best} does not match its checksum: the next evaluation replaces it"
            )
        world.gather(None)  # all processes have read the checkpoint before rank 0 deletes files
        if world.is_main:
            delete_checkpoints_after(config.out, progress.step)
            delete_half_written(config.out)
        self.metrics.go_back_to(progress.step)
        self.loaded_batches = progress.batches

    def check(self, result: StepResult) -> None:
        """Raise BadStep for a loss or gradient that must not change the weights."""
        model, recent = self.state.model, self.state.progress.recent
        # A scaled float16 gradient may overflow: the scaler then skips the step and lowers the
        # scale. At scale 1, an overflow has another cause.
        is_the_scales_fault = result.overflowed and self.state.scaler.get_scale() > 1
        if not (is_the_scales_fault and math.isfinite(result.loss)):
            check_finite(result.loss, result.grad_norm, model)
        check_spike(result.loss, recent, self.config.max_loss_spike)

    def save(self, *, must: bool) -> None:
        """Save a checkpoint. If this fails, report it; raise RunError if `must`, or at step 0.

        A run that can't save its first checkpoint would probably save nothing.
        """
        self.state.lap()
        try:
            save_checkpoint(
                self.config.out, self.state, self.config.keep_checkpoints, self.display.message
            )
        except OSError as error:
            what = f"can't save the checkpoint of step {self.state.progress.step} ({error})"
            if self.state.progress.step == 0:
                raise RunError(f"{what}, and there is no other: choose another --out") from error
            if must:
                raise RunError(
                    f"{what}: free some space and give --resume to continue from the previous one"
                ) from error
            self.display.message(f"{what}: the run continues and keeps the previous one")

    def save_best(self, val_loss: float) -> None:
        """Write the weights to the weights file. If this fails, report it and continue."""
        state = self.state
        weights = full_state(state.model)
        failed = False
        if state.world.is_main:
            try:
                save_best(
                    self.config.out,
                    state.model,
                    weights,
                    val_loss,
                    state.progress.step,
                    self.display.message,
                )
            except OSError as error:
                failed = True
                self.display.message(
                    f"can't save the best weights so far ({error}): the run continues"
                )
        if state.world.any(failed):
            self.find_best()  # the previous best weights, or none
        else:
            state.progress.best_val_loss = val_loss
            state.progress.best_step = state.progress.step

    def find_best(self) -> bool:
        """Read the loss and step of the best weights; return False if it is damaged."""
        state = self.state
        path = self.config.out / state.model.stored.weights_file
        found = read_best(path) if state.world.is_main else None
        (best, *_) = state.world.gather(found)
        state.progress.best_val_loss, state.progress.best_step = best or (math.inf, 0)
        return best is not None

    def roll_back(self, bad: BadStep) -> None:
        """Return to the newest checkpoint, and skip the batch that caused `bad`.

        Raises RunError after too many rollbacks, or if no batch caused it.
        """
        config, state, progress = self.config, self.state, self.state.progress
        where = f"step {progress.step + 1}: {bad}"
        if progress.batches == self.loaded_batches:
            raise RunError(
                f"{where}. No batch was drawn since the last start or rollback, so the computation "
                f"is at fault; try another --kernels or --device, or --no-compile"
            ) from bad
        skipped = sorted({*progress.skipped, progress.batches - 1})
        if state.world.is_main:
            try:
                save_skipped(config.out, skipped)
            except OSError as error:
                self.display.message(f"can't record which batches are skipped ({error})")
        if self.n_rollbacks == config.max_rollbacks:
            raise RunError(self._gave_up(where)) from bad
        self.n_rollbacks += 1
        state.model.zero_grad()
        state.model.forget_step()
        # Replace the scaler: only update(), which was not reached, clears its state of the step.
        state.scaler = gradient_scaler(config.resolved_dtype, state.world.device)
        state.lap()
        state.world.gather(None)  # rank 0 may still be writing
        if not load_checkpoint(config.out, state, self.display.message):
            raise RunError(f"{where}, and there is no checkpoint to return to") from bad
        good = state.progress
        good.skipped, good.seconds = skipped, progress.seconds
        # The best weights aren't rolled back, and may be newer than the checkpoint.
        good.best_val_loss, good.best_step = progress.best_val_loss, progress.best_step
        self.loaded_batches = good.batches
        if state.world.is_main:
            delete_checkpoints_after(config.out, good.step)  # skipped, damaged ones
        self.metrics.go_back_to(good.step)
        self.display.begin(good.step)
        self.display.message(
            f"{where}: back to step {good.step}; batch {skipped[-1]} will be skipped"
        )

    def _gave_up(self, where: str) -> str:
        config = self.config
        return (
            f"{where}. {self.n_rollbacks} batches were already skipped: giving up; {config.out} "
            f"keeps the last good checkpoint. Give --resume to continue from it without this "
            f"batch, perhaps with a higher --max-rollbacks (now {config.max_rollbacks}) or "
            f"--max-loss-spike (now {config.max_loss_spike:g}), or a lower --learning-rate (now "
            f"{config.learning_rate:g}) and --matrix-learning-rate (now "
            f"{config.matrix_learning_rate:g})"
        )


def check_finite(loss: float, grad_norm: float, model: LanguageModel) -> None:
    """Raise BadStep if the loss or the gradient norm is not finite; name a tensor at fault."""
    if math.isfinite(loss) and math.isfinite(grad_norm):
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
    raise BadStep(f"loss is {loss}, gradient norm {grad_norm}; {where}")


def check_spike(loss: float, recent: Sequence[float], spike: float) -> None:
    """Raise BadStep if the loss is more than `spike` nats above the mean of the recent losses.

    Nothing is checked until RECENT losses are known, because early losses fall fast and jump.
    """
    if len(recent) >= RECENT and loss > fmean(recent) + spike:
        raise BadStep(
            f"loss is {loss:.3f}, more than {spike:g} nats above {fmean(recent):.3f}, the mean of "
            f"the {len(recent)} steps before"
        )
