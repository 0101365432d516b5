"""benchmarks/make_the_number.py: what its methods learn from, and its figures, by hand."""

from __future__ import annotations

import importlib
import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch

from gptfast.data.verifiable.tasks import Problem
from gptfast.sample.rollouts import Rollout

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
PROBLEMS = [Problem("03 18=054:", "03*18"), Problem("01 02=003:", "01+02")]
TEXTS = [
    ["03*18", "18*03", "03+18", "", "<|end|>"],
    ["01*02", "01+02", "01+02", "02+01", "01-02"],
]
ENDED = [[True, True, True, True, True], [True, True, False, True, True]]


@pytest.fixture
def story(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module, with the answers of a model that is not there."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    module = importlib.import_module("make_the_number")
    monkeypatch.setattr(module, "N_SAMPLES", 5)

    def answer(folder: Path, split: str, n: int, sampling: object = None) -> object:
        rollouts = [Rollout([0], [1, 2], [-0.5, -1.0], end) for row in ENDED for end in row[:n]]
        texts = [text for row in TEXTS for text in row[:n]]
        right = [
            [module.TASK.reward(problem.prompt, text) for text in row[:n]]
            for problem, row in zip(PROBLEMS, TEXTS, strict=True)
        ]
        return module.Answers(PROBLEMS, rollouts, texts, torch.tensor(right))

    monkeypatch.setattr(module, "answer", answer)
    return module


def test_methods_learn_from_answers_that_ended_and_are_text(
    story: ModuleType, tmp_path: Path
) -> None:
    story.write_own_answers(Path("sft"), tmp_path, seed=1)
    right, pairs, prompts = (
        [json.loads(line) for line in (tmp_path / f"{name}.jsonl").read_text().splitlines()]
        for name in ("right", "pairs", "prompts")
    )
    assert [one["completion"] for one in right] == ["03*18", "18*03", "01+02", "02+01"]
    assert [one["prompt"] for one in prompts] == [problem.prompt for problem in PROBLEMS]
    assert pairs[0] == {"prompt": "03 18=054:", "chosen": "03*18", "rejected": "03+18"}
    assert [pair["chosen"] for pair in pairs[1:]] == ["01+02", "02+01"]
    assert {pair["rejected"] for pair in pairs[1:]} == {"01*02", "01-02"}


def test_the_table_has_shares_and_their_errors(story: ModuleType) -> None:
    row = story.measure("SFT", Path("sft"), 1, 12.0)
    # The problems' shares are 1 and 0, 2/5 and 3/5, 1 and 1: errors are half their differences.
    assert row.errors == pytest.approx((0.5, 0.1, 0.0))
    assert (row.greedy, row.at_16) == (0.5, 1.0)
    assert (row.well_formed, row.stop_rate) == pytest.approx((0.8, 0.9))
    *_, last = story.table([row]).splitlines()
    assert last == ("| SFT | 12 | 50.0 ± 50.0 | 50.0 ± 10.0 | 100.0 ± 0.0 | 80.0 | 90.0 | 0.750 |")
    other = replace(row, seed=2, greedy=0.7)
    *_, last = story.table([row, other]).splitlines()
    assert last.startswith("| SFT | 12 | 60.0 ± 10.0 |")  # of two seeds, 20 points apart
    *_, last = story.table_of_seeds([row, other]).splitlines()
    assert last == "| SFT | 50.0 / 70.0 | 50.0 / 50.0 |"


def test_the_accuracy_on_held_out_pairs_is_that_of_the_kept_weights(
    story: ModuleType, tmp_path: Path
) -> None:
    for name, measured in (("dpo", {"reward_accuracy": 0.925}), ("reward", {"accuracy": 0.8})):
        (tmp_path / name).mkdir()
        record = {"result": {"measured": measured}}
        (tmp_path / name / "run.json").write_text(json.dumps(record), encoding="utf-8")
    assert story.pair_accuracy(tmp_path) == "dpo 92.5%, reward 80.0%"
