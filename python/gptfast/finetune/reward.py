"""Reward models: learn from pairs to score an answer.

Legend: B pairs, R = 2 B rows.
"""

from __future__ import annotations

import numpy as np
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional as F

from gptfast.data.batch import Batch
from gptfast.data.pairs import PairSource, as_rows, pair_batch
from gptfast.finetune.pair_start import open_pair_start
from gptfast.finetune.settings.reward import RewardConfig
from gptfast.model.base import LanguageModel
from gptfast.model.heads import SCORE, SequenceClassifier
from gptfast.train.distributed import World
from gptfast.train.evaluate import sums_over
from gptfast.train.objective import Evaluation, Objective, Task


def bradley_terry_loss(chosen_B: Tensor, rejected_B: Tensor) -> Tensor:
    """Return -log sigmoid(s_chosen - s_rejected) for the scores of each pair, (B,).

    By Bradley and Terry ("Rank Analysis of Incomplete Block Designs", 1952), the better answer is
    preferred with the probability sigmoid(s_chosen - s_rejected). Ouyang et al., "Training language
    models to follow instructions with human feedback" (2022), equation 1.
    """
    return -F.logsigmoid(chosen_B - rejected_B)


def prepare(config: RewardConfig, console: Console) -> Task:
    """Read the pairs. Raises UserError or MissingFileError if they can't be learned from."""
    start, source, described = open_pair_start(config, console)
    return Task(
        source=source,
        objective=RewardModelling(config, source),
        tokenizer=start.tokenizer,
        new_model=start.new_model(lambda c: SequenceClassifier(c, SCORE)),
        chat_template=start.chat_template,
        record={"start_sha256": start.sha256},
        notes=[described],
    )


class RewardModelling(Objective):
    """The Bradley-Terry loss of pairs, in nats, and how often the better answer scores higher."""

    def __init__(self, config: RewardConfig, source: PairSource) -> None:
        self.config, self.val = config, source.val

    def count(self, batch: Batch) -> int:
        """Return the number of pairs."""
        return len(batch)

    def loss(self, engine: nn.Module, batch: Batch) -> Tensor:
        """Return the mean loss of the pairs."""
        return bradley_terry_loss(*scores(engine, batch)).mean()

    def evaluate(self, model: LanguageModel, world: World, *, whole: bool) -> Evaluation:
        """Measure the loss and the accuracy on held-out pairs. Equal scores are half right."""
        n = len(self.val) if whole else min(self.config.eval_windows, len(self.val))
        chosen = np.linspace(0, len(self.val) - 1, n).astype(int).tolist()
        size = self.config.windows_at_a_time(world.size)
        batches = [pair_batch(self.val, chosen[i : i + size]) for i in range(0, n, size)]
        sums = sums_over(model, batches, _loss_and_right, world)
        loss, accuracy = sums[0] / n, sums[1] / n
        error = (accuracy * (1 - accuracy) / n) ** 0.5
        measured = {"accuracy": accuracy, "accuracy_stderr": error}
        summary = (
            f"val loss {loss:.4f} nats/pair, {accuracy:.1%} right (standard error {error:.1%})"
        )
        return Evaluation(loss, measured, summary)


def scores(engine: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return the scores of the chosen and of the rejected answer of each pair, (B,) each."""
    rows = as_rows(batch)
    chosen_B, rejected_B = engine(rows.ids_BT, rows.extras["lengths"]).float().view(-1, 2).unbind(1)
    return chosen_B, rejected_B


def _loss_and_right(model: LanguageModel, batch: Batch) -> tuple[float, float]:
    chosen_B, rejected_B = scores(model, batch)
    right = ((chosen_B - rejected_B).sign() + 1) / 2
    return bradley_terry_loss(chosen_B, rejected_B).sum().item(), right.sum().item()
