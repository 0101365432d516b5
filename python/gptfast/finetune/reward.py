"""Reward models: learn from pairs to score an answer.

Legend: B pairs, R = 2 B rows.
"""

from __future__ import annotations

from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional as F

from gptfast.data.batch import Batch
from gptfast.data.pairs import PairSource, as_rows, pair_batch
from gptfast.finetune.chat_start import open_pair_start
from gptfast.finetune.evaluation import loss_and_accuracy
from gptfast.finetune.settings.preferences import RewardConfig
from gptfast.model.base import LanguageModel
from gptfast.model.heads import SCORE, SequenceClassifier
from gptfast.train.distributed import World
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
    new_model = start.new_model(lambda c: SequenceClassifier(c, SCORE))
    return start.task(source, RewardModelling(config, source), new_model, [described])


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
        return loss_and_accuracy(
            model,
            len(self.val),
            lambda indices: pair_batch(self.val, indices),
            _loss_and_right,
            self.config,
            world,
            whole=whole,
            unit="pair",
        )


def scores(engine: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return the scores of the chosen and of the rejected answer of each pair, (B,) each."""
    rows = as_rows(batch)
    chosen_B, rejected_B = engine(rows.ids_BT, rows.extras["lengths"]).float().view(-1, 2).unbind(1)
    return chosen_B, rejected_B


def _loss_and_right(model: LanguageModel, batch: Batch) -> tuple[float, float]:
    chosen_B, rejected_B = scores(model, batch)
    right = ((chosen_B - rejected_B).sign() + 1) / 2
    return bradley_terry_loss(chosen_B, rejected_B).sum().item(), right.sum().item()
