"""Gradients of a batch with very unequal numbers of targets, by several processes."""

from __future__ import annotations

from pathlib import Path

import torch

from gptfast.data.batch import IGNORED, Batch
from gptfast.model import ModelConfig, build_model
from gptfast.model.base import LanguageModel
from gptfast.train.distributed import join_world, parallelize
from gptfast.train.objective import NextToken
from gptfast.train.step import accumulate_gradients, gradient_scaler

MODEL = ModelConfig(60, block_size=48, n_layer=2, n_head=2, n_embd=16)
N_TARGETS = (1, 40, 0, 7)
"""Targets of each row. Two processes get 1 + 0 and 40 + 7."""


def unequal_batch() -> Batch:
    rng = torch.Generator().manual_seed(0)
    tokens = torch.randint(60, (len(N_TARGETS), 49), generator=rng)
    targets_BT = tokens[:, 1:].clone()
    for row_T, n in zip(targets_BT, N_TARGETS, strict=True):
        row_T[: 48 - n] = IGNORED
    return Batch(tokens[:, :-1], targets_BT, torch.zeros(len(N_TARGETS), 48, dtype=torch.bool))


def unequal_model() -> LanguageModel:
    torch.manual_seed(0)
    return build_model(MODEL)


def main(arguments: list[str]) -> int:
    """Write loss and gradients to the file OUT."""
    with join_world("cpu") as world:
        model = unequal_model()
        loss = accumulate_gradients(
            parallelize(model, world, "ddp"),
            unequal_batch().share(world.rank, world.size),
            NextToken(),
            gradient_scaler("float32", world.device),
            micro_batch_size=1,
            world=world,
        )
        if world.is_main:
            gradients = {name: p.grad for name, p in model.named_parameters()}
            torch.save((loss, gradients), Path(arguments[0]))
    return 0
