"""What a run trains on and what it minimises: the two seams that every kind of training fills.

A `Source` makes batches, an `Objective` turns them into a loss and measures progress. The loop,
resuming, recovery, display and several processes know no more than this of pre-training; see
train/pretrain.py for the first of each. Fine-tuning, preference, reinforcement, distillation and
vision are further pairs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor, nn

from gptfast.data.batch import IGNORED, Batch
from gptfast.model.base import LanguageModel
from gptfast.train.distributed import World


class Source(Protocol):
    """Where batches come from. Every process draws the same global batches.

    The batches are made in a thread of their own, one ahead of the step that uses it.
    """

    @property
    def fingerprint(self) -> str:
        """Return what identifies the data; `--resume` refuses another one."""

    def next_batch(self) -> Batch:
        """Return the next global batch, on the CPU, and move on."""

    def example(self) -> Batch:
        """Return a batch of the same shape without moving: it shows whether a step fits."""

    def state_dict(self) -> Any:
        """Return the position, of JSON's types; it is saved with every checkpoint."""

    def load_state_dict(self, state: Any) -> None:
        """Go to a saved position."""


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation measured."""

    loss: float
    """Decides which weights are the best: lower is better."""
    measured: dict[str, Any] = field(default_factory=dict)
    """Further numbers, or lists of numbers, for metrics.jsonl and run.json."""
    summary: str = ""
    """The numbers in words, for the line that is printed."""


class Objective:
    """What is minimised, and what an evaluation measures. Subclasses override what differs."""

    def count(self, batch: Batch) -> int:
        """Return how much of a batch counts; a part of it weighs as much as its own count."""
        return int((batch.targets_BT != IGNORED).sum())

    def prepare(self, model: LanguageModel, batch: Batch) -> Batch:
        """Return what to train on in place of a drawn batch, such as the model's own rollouts."""
        return batch

    def loss(self, engine: nn.Module, batch: Batch) -> Tensor:
        """Return the mean loss over what counts in a micro-batch, on the engine's device.

        engine: the model, or its wrapper for several processes. Compute through its forward call
        alone, which the wrapper must see.
        """
        raise NotImplementedError

    def evaluate(self, model: LanguageModel, world: World, *, whole: bool) -> Evaluation:
        """Measure the model. whole: on all there is, at the end of a run. Every process calls it.

        The model's mode and the random generators are left as they were.
        """
        raise NotImplementedError


class NextToken(Objective):
    """The mean cross entropy of the next token, in nats, over the targets that count."""

    def loss(self, engine: nn.Module, batch: Batch) -> Tensor:
        """Return the mean over a micro-batch."""
        loss: Tensor = engine(batch.ids_BT, batch.targets_BT, batch.cu_seqlens)
        return loss
