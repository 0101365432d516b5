"""Several processes that train one model, by PyTorch's own engine: torchrun, DDP and FSDP2.

Every process draws the same global batches and takes its share of each; what they compute is summed
so that losses and updates are those of a single process.
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

from gptfast.model import GPT, LanguageModel
from gptfast.model.device import resolve_device
from gptfast.train.config import Parallel

PATIENCE = timedelta(hours=2)
"""How long processes wait for one another, as for rank 0 while it encodes the corpus or saves.

PyTorch's 10 minutes with NCCL may be too short. When a process ends, torchrun ends the others.
"""
_FULL = StateDictOptions(full_state_dict=True, cpu_offload=True)


@dataclass(frozen=True)
class World:
    """The processes that train together, and which of them this one is."""

    rank: int
    """From 0, which alone writes files and shows what goes on."""
    size: int
    device: torch.device
    """What this process computes on."""
    mesh: DeviceMesh | None = None
    """All processes in a row; None without torchrun."""

    def __str__(self) -> str:
        return f"{self.size} x {self.device.type}" if self.size > 1 else str(self.device)

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes and shows."""
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, also in place."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def any(self, flag: bool) -> bool:
        """Whether `flag` is set in any process."""
        return bool(self.sum(torch.tensor(float(flag), device=self.device)) > 0)

    def gather(self, value: Any) -> list[Any]:
        """Every process's value, in the order of their ranks."""
        values = [value] * self.size
        if self.size > 1:
            dist.all_gather_object(values, value)
        return values

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """Let rank 0 go through the block before the others do."""
        if self.size > 1 and not self.is_main:
            dist.barrier()
        yield
        if self.size > 1 and self.is_main:
            dist.barrier()


SINGLE_PROCESS = World(0, 1, torch.device("cpu"))
"""One process alone. Steps and evaluations compute on the model's device, not on this one."""


@contextmanager
def join_world(device: str) -> Iterator[World]:
    """Join the processes that torchrun has started; without torchrun, be alone.

    device: as for `resolve_device`; 'auto' and 'cuda' are the GPU of this process's local rank.
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
        # PyTorch's caches keep the mesh, and the mesh the group (in 2.15 here), whose threads would
        # run on until the process ends and now and then abort it ("terminate called").
        getattr(mesh, "_pg_registry", {}).clear()


def parallelize(model: LanguageModel, world: World, parallel: Parallel) -> nn.Module:
    """What to call for a loss whose gradients are averaged over all processes.

    'ddp': a copy of everything in each process ("PyTorch Distributed", Li et al., 2020). 'fsdp':
    weights, gradients and optimizer in shards, a block gathered when it is needed ("PyTorch FSDP",
    Zhao et al., 2023; its second implementation, `fully_shard`); `model` itself is changed.
    """
    if world.size == 1:
        return model
    if parallel == "ddp":
        # The buffers are constants, or counts of this process's own.
        return DistributedDataParallel(model, broadcast_buffers=False)
    for block in model.h if isinstance(model, GPT) else ():  # the configuration wants a GPT
        fully_shard(block, mesh=world.mesh)
    fully_shard(model, mesh=world.mesh)
    return model


@contextmanager
def accumulating(engine: nn.Module, is_last: bool) -> Iterator[None]:
    """Within a step of several backward passes, let only the last one exchange gradients."""
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
    """The whole of a tensor of which this process may hold a shard only."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def full_state(model: LanguageModel) -> dict[str, Tensor]:
    """All of the model's tensors, on rank 0's CPU; nothing elsewhere. All must call it."""
    state: dict[str, Any] = get_model_state_dict(model, options=_FULL)
    return state


def load_full_state(model: LanguageModel, state: dict[str, Tensor]) -> None:
    """Give each process its part of a whole state, however many saved it. Raises RuntimeError."""
    options = StateDictOptions(full_state_dict=True)
    set_model_state_dict(model, dict[str, Any](state), options=options)


def full_optimizer_state(
    model: LanguageModel, optimizers: list[torch.optim.Optimizer]
) -> dict[str, Any]:
    """All of the optimizers' state by parameter names, on rank 0's CPU; nothing elsewhere."""
    for optimizer in optimizers:
        if not optimizer.state:
            _make_state(optimizer)
    return get_optimizer_state_dict(model, optimizers, options=_FULL)


def _make_state(optimizer: torch.optim.Optimizer) -> None:
    """Give an optimizer that has taken no step the state that it has before its first.

    An optimizer makes its state in a step. PyTorch takes one for it, at a learning rate of 0, but
    leaves it counted, so that AdamW's first real step would be corrected for bias as its second.
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
    """Give each process its part of a whole state, however many saved it."""
    options = StateDictOptions(full_state_dict=True)
    set_optimizer_state_dict(model, optimizers, state, options=options)
