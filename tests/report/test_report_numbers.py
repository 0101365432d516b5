"""Baselines, sentences about scale and curves, by hand and by loops."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from gptfast.report.baselines import count_losses
from gptfast.report.curves import Axes, Series, averaged, chart
from gptfast.report.limits import limits
from gptfast.report.sections import spread
from gptfast.train.history import Run, read_run


def losses_by_loops(train: list[int], val: list[int], n_vocab: int) -> tuple[float, float]:
    """The definition, token by token in float64."""
    counts, followers = Counter(train), defaultdict(Counter)
    for a, b in pairwise(train):
        followers[a][b] += 1
    unigram, bigram = [], []
    for a, b in pairwise(val):
        p = (counts[b] + 1) / (len(train) + n_vocab)
        unigram.append(-math.log(p))
        after = followers[a]
        if after:
            p = (after[b] + len(after) * p) / (after.total() + len(after))
        bigram.append(-math.log(p))
    return sum(unigram) / len(unigram), sum(bigram) / len(bigram)


def test_baselines_by_hand() -> None:
    # Train: 0 1 0 1 2, val: 0 1. p(1) = (2 + 1) / (5 + 4). After 0 came 1 twice, and nothing else.
    unigram, bigram = count_losses(np.array([0, 1, 0, 1, 2]), np.array([0, 1]), 4)
    assert unigram == pytest.approx(-math.log(3 / 9))
    assert bigram == pytest.approx(-math.log((2 + 1 * 3 / 9) / (2 + 1)))


def test_baselines_by_loops() -> None:
    rng = np.random.default_rng(0)
    train, val = rng.zipf(1.5, 500) % 40, rng.zipf(1.5, 200) % 50  # some are never seen in train
    found = count_losses(train, val, 50)
    assert found == pytest.approx(losses_by_loops(train.tolist(), val.tolist(), 50))


def test_curves_are_thinned_by_means_and_levels_need_no_points() -> None:
    points = [(float(x), float(x % 2)) for x in range(1, 1001)]
    thinned = averaged(points, 100)
    assert len(thinned) == 100
    assert {y for _, y in thinned} == {0.5}
    assert thinned[-1][0] == 1000
    assert averaged(points[:7], 7) == points[:7]
    assert spread(list(range(11)), 3) == [0, 5, 10]
    level = Series("level", [], "level", level=2.0)
    assert chart("title", Axes("step", "loss"), [level]) == ""
    drawn = chart("title", Axes("step", "loss"), [level, Series("one", [(0, 1.0)], "val")])
    assert "M0 47." not in drawn  # the level is near the top, as it is the largest value
    assert "<polyline" in drawn


def changed(run: Run, **changes: object) -> Run:
    return Run(**{**vars(run), **changes})


def test_sentences_follow_the_facts(run: Path) -> None:
    made = read_run(run)
    result = made.result or {}

    def said(run: Run, n_parameters: int | None = 10_000) -> str:
        return " ".join(limits(run, n_parameters, []))

    text = said(made)
    # 40 steps of 4 windows of 32 tokens.
    assert "5,120 tokens, 0.512 per parameter: fewer than the 20" in text
    assert "1/12,444 of the smallest GPT-2" in text
    assert "not finished" not in text
    assert "no fewer than the 20" in said(made, 256)
    assert "knows no facts" not in said(made, 2 * 10**9)
    far = changed(made, result=result | {"val_loss": 99.0})
    assert "has begun to learn its text by heart" in said(far)
    near = changed(made, result=result | {"val_loss": made.losses[-1]["loss"]})
    assert "no sign that it learned its text by heart" in said(near)
    again = changed(
        made, record=made.record | {"data": made.record["data"] | {"train_tokens": 512}}
    )
    assert "through its text 10 times" in said(again)
    leaked = made.record["data"] | {"overlap": 0.25}
    assert "25.0% of the val text" in said(changed(made, record=made.record | {"data": leaked}))
