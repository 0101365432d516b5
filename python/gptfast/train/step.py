"""One training step: loss, gradients, clipping, update.

This is the only training step of the package: the loop, the ladder, `gptfast plan` and the
benchmarks against other trainers use it. It depends only on PyTorch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gptfast.data.batch import Batch
from gptfast.train.config import Dtype
from gptfast.train.distributed import SINGLE_PROCESS, World, accumulating, full
from gptfast.train.objective import Objective
from gptfast.train.optim import Optimizer


@dataclass(frozen=True)
class StepResult:
    """The measurements of a step, taken before the weights changed."""

    loss: float
    """Mean loss of the whole batch, over all processes."""
    grad_norm: float
    """Norm of the gradient before clipping."""
    overflowed: bool
    """Whether scaled float16 gradients overflowed. Such a step lowers the scale instead of updating
    the weights."""


def train_step(
    engine: nn.Module,
    batch: Batch,
    optimizer: Optimizer,
    objective: Objective,
    scaler: torch.amp.GradScaler,
    *,
    lr_factor: float = 1.0,
    grad_clip: float = 1.0,
    micro_batch_size: int | None = None,
    dtype: Dtype = "float32",
    world: World = SINGLE_PROCESS,
    check: Callable[[StepResult], None] | None = None,
) -> StepResult:
    """Train on one global batch and return the measurements.

    engine: the model, or its wrapper from `parallelize`. batch: this process's share. scaler: from
    `gradient_scaler`. lr_factor: factor of the optimizer's peak learning rates. check: called
    before the update, which it can prevent by raising.
    """
    mean_loss = accumulate_gradients(
        engine, batch, objective, scaler, micro_batch_size=micro_batch_size, dtype=dtype,
        world=world,
    )  # fmt: skip
    for part, _ in optimizer.parts:
        scaler.unscale_(part)
    # One norm over all parameters, so that clipping keeps the direction of the gradient.
    parameters = list(engine.parameters())
    norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    # Read both together, because each read synchronizes the GPU.
    loss, grad_norm = torch.stack([mean_loss, full(norm)]).tolist()
    result = StepResult(loss, grad_norm, scaler.is_enabled() and not math.isfinite(grad_norm))
    if check is not None:
        check(result)
    nn.utils.clip_grads_with_norm_(parameters, grad_clip, norm)
    if result.overflowed:
        engine.zero_grad()
    else:
        optimizer.step(lr_factor)
    scaler.update()
    return result


def accumulate_gradients(
    engine: nn.Module,
    batch: Batch,
    objective: Objective,
    scaler: torch.amp.GradScaler,
    *,
    micro_batch_size: int | None = None,
    dtype: Dtype = "float32",
    world: World = SINGLE_PROCESS,
) -> Tensor:
    """Accumulate the gradients of the mean loss of a global batch; return that loss.

    batch: this process's share of it, which goes through the engine `micro_batch_size` rows at a
    time. All processes must have equally many rows, because they exchange gradients part by part.
    Each part is weighted by its count of targets, so the result equals that of the whole batch in
    one process. The balancing loss of experts is an exception: it is computed for each part.
    """
    device = next(engine.parameters()).device
    total = world.total(objective.count(batch))
    parts = batch.split(micro_batch_size or len(batch))
    mean = torch.zeros((), device=device)
    for i, part in enumerate(parts):
        weight = objective.count(part) / total if total else math.nan
        with accumulating(engine, is_last=i == len(parts) - 1):
            with autocast(dtype, device):
                loss = objective.loss(engine, part.to(device))
            # The engine averages gradients over the processes, but the step needs their sum.
            scaler.scale(loss * weight * world.size).backward()  # type: ignore[no-untyped-call]
        if weight != 0:  # otherwise the loss is NaN, the mean of nothing
            mean += loss.detach() * weight
    return world.sum(mean)


def autocast(dtype: Dtype, device: torch.device) -> torch.autocast:
    """Return a context manager that computes matrix products in `dtype`."""
    narrow = torch.float16 if dtype == "float16" else torch.bfloat16
    return torch.autocast(device.type, narrow, enabled=dtype != "float32")


def gradient_scaler(dtype: Dtype, device: torch.device) -> torch.amp.GradScaler:
    """Return a loss scaler, which keeps small float16 gradients; a no-op for other dtypes."""
    return torch.amp.GradScaler(device.type, enabled=dtype == "float16")
