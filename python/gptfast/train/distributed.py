"""Train one model in several processes, with PyTorch's torchrun, DDP and FSDP2.

Every process draws the same global batches and takes its share of each. Losses and gradients are
summed over the processes, so that they are those of a single process.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from gptfast.errors import RunError
from gptfast.model import GPT, LanguageModel
from gptfast.model.device import resolve_device
from gptfast.train.config import Parallel

PATIENCE = timedelta(hours=2)
"""Longest time that a process waits for another, such as for rank 0 to encode or to save.

PyTorch's default for NCCL, 10 minutes, may be too short. When a process ends, torchrun ends the
others, so a long timeout never hangs a failed run.
"""
_FULL = StateDictOptions(full_state_dict=True, cpu_offload=True)


@dataclass(frozen=True)
class World:
    """The processes that train together, and which of them this one is."""

    rank: int
    """This process's number, from 0. Only rank 0 writes files and displays progress."""
    size: int
    """Number of processes."""
    device: torch.device
    """The device that this process computes on."""
    mesh: DeviceMesh | None = None
    """One-dimensional mesh of all processes; None without torchrun."""

    def __str__(self) -> str:
        return f"{self.size} x {self.device.type}" if self.size > 1 else str(self.device)

    @property
    def is_main(self) -> bool:
        """Return whether this process writes files and displays progress."""
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """Sum a tensor over all processes, in place, and return it."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def total(self, count: int) -> int:
        """Return the sum of a count over all processes."""
        if self.size == 1:
            return count
        return int(self.sum(torch.tensor(count, device=self.device)))

    def any(self, flag: bool) -> bool:
        """Return whether `flag` is set in any process."""
        return bool(self.sum(torch.tensor(float(flag), device=self.device)) > 0)

    def gather(self, value: Any) -> list[Any]:
        """Return the values of all processes, ordered by rank."""
        values = [value] * self.size
        if self.size > 1:
            dist.all_gather_object(values, value)
        return values

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """Run the block on rank 0 first, then on the others. Raises RunError if rank 0 ends."""
        if self.size > 1 and not self.is_main:
            try:
                dist.barrier()
            except RuntimeError as error:  # its connection is closed
                raise RunError(
                    "process 0 ended before this one could begin: see its message"
                ) from error
        yield
        if self.size > 1 and self.is_main:
            dist.barrier()


SINGLE_PROCESS = World(0, 1, torch.device("cpu"))
"""A single process. Steps and evaluations compute on the model's device, not on this one."""


@contextmanager
def join_world(device: str) -> Iterator[World]:
    """Join the process group that torchrun started; without torchrun, yield a single process.

    device: as for `resolve_device`. Under torchrun, 'auto' and 'cuda' select the GPU of the local
    rank.
    """
    if "LOCAL_RANK" not in os.environ:
        yield World(0, 1, resolve_device(device))
        return
    resolved = resolve_device(device)
    if resolved.type == "cuda":
        resolved = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(resolved)
    dist.init_process_group("nccl" if resolved.type == "cuda" else "gloo", timeout=PATIENCE)
    mesh = init_device_mesh(resolved.type, (dist.get_world_size(),))
    try:
        yield World(dist.get_rank(), dist.get_world_size(), resolved, mesh)
    finally:
        dist.destroy_process_group()
        # PyTorch 2.15 caches the mesh, and the mesh holds the group. Without this, the group's
        # threads outlive the run and sometimes abort the process ("terminate called").
        getattr(mesh, "_pg_registry", {}).clear()


def parallelize(model: LanguageModel, world: World, parallel: Parallel) -> nn.Module:
    """Wrap the model so that backward averages the gradients over all processes.

    'ddp' copies everything to each process ("PyTorch Distributed", Li et al., 2020). 'fsdp' shards
    weights, gradients and optimizer state, and gathers a block when it is needed ("PyTorch FSDP",
    Zhao et al., 2023, in its second implementation, `fully_shard`); it changes `model` itself.
    """
    if world.size == 1:
        return model
    if parallel == "ddp":
        # Buffers are constants or counts of one process, so they must not be broadcast.
        return DistributedDataParallel(model, broadcast_buffers=False)
    for block in model.h if isinstance(model, GPT) else ():  # a model without blocks is one shard
        fully_shard(block, mesh=world.mesh)
    fully_shard(model, mesh=world.mesh)
    return model


@contextmanager
def accumulating(engine: nn.Module, is_last: bool) -> Iterator[None]:
    """Exchange gradients only in the last backward pass of a step that has several."""
    if isinstance(engine, FSDPModule):
        engine.set_requires_gradient_sync(is_last)
        yield
    elif isinstance(engine, DistributedDataParallel) and not is_last:
        with engine.no_sync():
            yield
    else:
        with nullcontext():
            yield


def full(tensor: Tensor) -> Tensor:
    """Return the whole tensor; gather it if this process holds a shard."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def full_state(model: LanguageModel) -> dict[str, Tensor]:
    """Return all tensors of the model, on the CPU of rank 0; elsewhere an empty dict.

    Every process must call it.
    """
    state: dict[str, Any] = get_model_state_dict(model, options=_FULL)
    return state


def load_full_state(model: LanguageModel, state: dict[str, Tensor]) -> None:
    """Load a model's own state; each process takes its part, however many processes saved it.

    Tensors that the state lacks, such as those of an adapter's base, stay as they are.
    """
    options = StateDictOptions(full_state_dict=True, strict=False)
    set_model_state_dict(model, dict[str, Any](state), options=options)


def full_optimizer_state(
    model: LanguageModel, optimizers: list[torch.optim.Optimizer]
) -> dict[str, Any]:
    """Return the optimizers' whole state by parameter name, on the CPU of rank 0.

    Elsewhere, return an empty dict. Every process must call it.
    """
    for optimizer in optimizers:
        if not optimizer.state:
            _make_state(optimizer)
    return get_optimizer_state_dict(model, optimizers, options=_FULL)


def _make_state(optimizer: torch.optim.Optimizer) -> None:
    """Initialize the state of an optimizer that has not taken a step yet.

    PyTorch optimizers create their state in `step`. PyTorch's own initialization takes such a step
    at a learning rate of 0 but leaves it counted, and AdamW then corrects the bias of its first
    real step as if it were the second. This sets the count back to 0.
    """
    rates = [group["lr"] for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group["lr"] = 0.0
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad()
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    for state in optimizer.state.values():
        if "step" in state:
            state["step"].zero_()


def load_full_optimizer_state(
    model: LanguageModel, optimizers: list[torch.optim.Optimizer], state: dict[str, Any]
) -> None:
    """Load a whole state; each process takes its part, however many processes saved it."""
    options = StateDictOptions(full_state_dict=True)
    set_optimizer_state_dict(model, optimizers, state, options=options)
