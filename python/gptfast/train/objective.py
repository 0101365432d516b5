"""The two interfaces that every kind of training implements: `Source` and `Objective`.

A `Source` makes batches. An `Objective` turns them into a loss and measures progress. The loop,
checkpoints, recovery, display and distributed training use only these interfaces.
train/pretrain.py implements both for pre-training. Fine-tuning, preference optimisation,
reinforcement learning, distillation and vision would each implement another pair. A `Task` joins a
pair with a model and a tokenizer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from gptfast.data.batch import IGNORED, Batch
from gptfast.data.loader import BatchSource
from gptfast.model.base import LanguageModel
from gptfast.tokenizer import Tokenizer
from gptfast.train.distributed import World

if TYPE_CHECKING:  # the display needs rich, which benchmarks do without
    from gptfast.train.display import WriteSample


class Source(BatchSource, Protocol):
    """A source of batches. Every process draws the same global batches.

    `next_batch` runs in a separate thread, one batch ahead of the training step.
    """

    @property
    def fingerprint(self) -> str:
        """A checksum of the data. `--resume` refuses data with another checksum."""

    def example(self) -> Batch:
        """Return a batch of the same shape without advancing, to test whether a step fits."""


@dataclass(frozen=True)
class Evaluation:
    """The result of an evaluation."""

    loss: float
    """The loss that selects the best weights. Lower is better."""
    measured: dict[str, Any] = field(default_factory=dict)
    """Further numbers, or lists of numbers, for metrics.jsonl and run.json."""
    summary: str = ""
    """A summary of the numbers, to be printed."""


class Objective:
    """The loss that training minimises, and its evaluation. Subclasses implement the methods."""

    def count(self, batch: Batch) -> int:
        """Return the weight of a batch or micro-batch: its number of targets by default."""
        return int((batch.targets_BT != IGNORED).sum())

    def prepare(self, model: LanguageModel, batch: Batch) -> Batch:
        """Return the batch to train on, such as the model's own rollouts for drawn prompts.

        batch: this process's share of the drawn batch, on the CPU. Each process prepares its own,
        and must return as many rows as every other.
        """
        return batch

    def state_dict(self) -> dict[str, Any] | None:
        """Return what checkpoints keep besides weights, optimizer and source, such as rollouts.

        Tensors and JSON types. Each process returns its own.
        """
        return None

    def load_state_dict(self, state: Any) -> None:
        """Restore what `state_dict` returned; None if another number of processes saved it."""

    def loss(self, engine: nn.Module, batch: Batch) -> Tensor:
        """Return the mean loss over the targets of a micro-batch, on the engine's device.

        engine: the model, or its wrapper for several processes. Call only its forward, because the
        wrapper must see all computation. For a part without targets the loss may be NaN, but its
        gradients must be finite.
        """
        raise NotImplementedError

    def measured(self, world: World) -> dict[str, Any]:
        """Return figures of the last step for metrics.jsonl. Every process calls this."""
        return {}

    def evaluate(self, model: LanguageModel, world: World, *, whole: bool) -> Evaluation:
        """Measure the model. Every process calls this.

        whole: use all evaluation data, at the end of a run. The implementation must restore the
        model's mode and the random generators.
        """
        raise NotImplementedError


class NextToken(Objective):
    """The mean cross entropy of the next token, in nats, over targets that are not ignored."""

    def loss(self, engine: nn.Module, batch: Batch) -> Tensor:
        """Return the mean cross entropy of a micro-batch."""
        loss: Tensor = engine(batch.ids_BT, batch.targets_BT, batch.cu_seqlens)
        return loss


@dataclass
class Task:
    """The parts of a run that are not in its RunConfig: what is learned, and from which data."""

    source: Source
    objective: Objective
    tokenizer: Tokenizer | None
    """Saved beside the model. None for a model that reads no text."""
    new_model: Callable[[torch.device], LanguageModel]
    """Makes the initial model. New weights are drawn from PyTorch's global generator."""
    chat_template: str | None = None
    """Saved beside the tokenizer, if there is one: the Jinja of `tokenizer/chat.py`."""
    record: dict[str, Any] = field(default_factory=dict)
    """The description of the data for run.json."""
    notes: list[str] = field(default_factory=list)
    """Lines to print before training starts."""
    examine: Callable[[], Iterator[str]] | None = None
    """Slow checks of the data that yield lines to print. Called only if training will start."""
    write_sample: WriteSample | None = None
    """Writes samples during training, if the caller of `run` gives nothing else for it."""
