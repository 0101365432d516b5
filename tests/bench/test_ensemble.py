"""The mean of probabilities, against cases computed by hand."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from gptfast.data.loader import EvalWindows
from gptfast.errors import UserError
from gptfast.model import ModelConfig, build_model
from gptfast.model.baselines import BigramLM
from gptfast.train.evaluate import evaluate

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
from ensemble import Ensemble


def bigram(probabilities: list[list[float]], block_size: int = 8) -> BigramLM:
    """The model whose next token depends on the last as the rows say."""
    model = BigramLM(ModelConfig(len(probabilities), "bigram", block_size, 1, 1, 32))
    with torch.no_grad():
        model.table.weight.copy_(torch.tensor(probabilities).log() + 3)  # any constant
    return model


def test_probabilities_are_averaged_not_logits() -> None:
    sure, unsure, wrong = (
        bigram([row, [0.5, 0.5]]) for row in ([0.98, 0.02], [0.6, 0.4], [0.1, 0.9])
    )
    ids = torch.tensor([[0, 1, 0]])
    got = Ensemble([sure, unsure, wrong])(ids).exp()
    expected = [[0.56, 0.44], [0.5, 0.5], [0.56, 0.44]]  # (0.98 + 0.6 + 0.1) / 3
    torch.testing.assert_close(got[0], torch.tensor(expected))


def test_the_loss_is_that_of_the_mean_probability() -> None:
    both = Ensemble([bigram([[0.9, 0.1], [0.2, 0.8]]), bigram([[0.5, 0.5], [0.4, 0.6]])])
    loss = both(torch.tensor([[0, 1]]), torch.tensor([[0, 0]]))
    assert loss.item() == pytest.approx(-(math.log(0.7) + math.log(0.3)) / 2, abs=1e-6)


def test_the_shortest_context_is_everyones() -> None:
    half = [[0.5, 0.5], [0.5, 0.5]]
    assert Ensemble([bigram(half, 8), bigram(half, 4)]).config.block_size == 4


def test_there_is_no_dropout_in_an_ensemble() -> None:
    """Nor after an evaluation, which gives a model back in the mode that it was in."""
    members = [build_model(ModelConfig(5, "gpt", 4, 1, 1, 4, dropout=0.5)) for _ in range(2)]
    both = Ensemble(members)
    evaluate(both, EvalWindows(np.arange(40, dtype=np.uint16) % 5, both.config.block_size, 2))
    ids = torch.zeros(1, 4, dtype=torch.long)
    assert torch.equal(both(ids), both(ids))


def test_vocabularies_must_be_the_same() -> None:
    with pytest.raises(UserError, match="vocabularies of 2, 3 ids"):
        Ensemble([bigram([[0.5] * 2] * 2), bigram([[0.3] * 3] * 3)])
