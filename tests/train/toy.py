"""A kind of training of our own: which of two letters is in the majority?

A source and an objective are all that it takes.
"""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional as F

from gptfast.data.batch import IGNORED, Batch
from gptfast.model import ModelConfig, build_model
from gptfast.model.base import LanguageModel
from gptfast.model.dropout import eval_mode
from gptfast.tokenizer import CharTokenizer
from gptfast.train.checkpoint import State
from gptfast.train.config import RunConfig
from gptfast.train.distributed import World
from gptfast.train.objective import Evaluation, Objective, Task
from gptfast.train.run import run

MODEL = ModelConfig(2, block_size=9, n_layer=1, n_head=2, n_embd=16)


class Letters:
    """Random rows of two letters."""

    fingerprint = "two letters"

    def __init__(self, batch_size: int) -> None:
        self.batch_size, self.drawn = batch_size, 0

    def next_batch(self) -> Batch:
        self.drawn += 1
        return self.batch(self.drawn)

    def example(self) -> Batch:
        return self.batch(0)

    def state_dict(self) -> Any:
        return {"drawn": self.drawn}

    def load_state_dict(self, state: Any) -> None:
        self.drawn = state["drawn"]

    def batch(self, seed: int) -> Batch:
        rng = np.random.default_rng(seed)
        ids_BT = torch.from_numpy(rng.integers(2, size=(self.batch_size, MODEL.block_size)))
        return Batch(ids_BT, torch.full_like(ids_BT, IGNORED))


class Majority(Objective):
    """Cross entropy of the label, at the last position."""

    def __init__(self, source: Letters) -> None:
        self.held_out = self.labelled(source.batch(seed=10**6))

    def count(self, batch: Batch) -> int:
        return len(batch)

    def prepare(self, model: LanguageModel, batch: Batch) -> Batch:
        return self.labelled(batch)

    def labelled(self, batch: Batch) -> Batch:
        labels_B = (batch.ids_BT.sum(1) * 2 > MODEL.block_size).long()
        return replace(batch, extras={"label": labels_B})

    def loss(self, engine: nn.Module, batch: Batch) -> Tensor:
        return F.cross_entropy(engine(batch.ids_BT)[:, -1], batch.extras["label"])

    @torch.no_grad()
    def evaluate(self, model: LanguageModel, world: World, *, whole: bool) -> Evaluation:
        with eval_mode(model):
            guess_B = model(self.held_out.ids_BT)[:, -1].argmax(-1)
            loss = self.loss(model, self.held_out).item()
        accuracy = (guess_B == self.held_out.extras["label"]).float().mean().item()
        return Evaluation(loss, {"accuracy": accuracy}, f"{accuracy:.0%} right")


def prepare(config: RunConfig, console: Console) -> Task:
    source = Letters(config.batch_size)
    return Task(
        source, Majority(source), CharTokenizer.train("ab"), lambda device: build_model(MODEL)
    )


def settings(out: Path, **changes: Any) -> RunConfig:
    return RunConfig(
        **{
            "out": out, "max_steps": 60, "batch_size": 32, "micro_batch_size": 8,
            "learning_rate": 1e-2, "warmup_steps": 5, "eval_interval": 10, "device": "cpu",
            "dtype": "float32", **changes,
        }
    )  # fmt: skip


def main(arguments: list[str]) -> int:
    """Train into the folder OUT; kill this process in step STEP, if given."""
    out, *step_to_die = arguments
    lap = State.lap

    def lap_or_die(state: State) -> float:
        if str(state.progress.step) in step_to_die:
            os.kill(os.getpid(), signal.SIGKILL)
        return lap(state)

    State.lap = lap_or_die  # type: ignore[method-assign]
    run(settings(Path(out)), prepare, command="toy", console=Console())
    return 0
