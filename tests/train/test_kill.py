"""kill -9 at the worst moments: the run that goes on is bitwise the one that was never killed."""

from __future__ import annotations

import json
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from programs import short_run, train_and_be_killed
from rich.console import Console

from gptfast.train.config import TrainConfig
from gptfast.train.pretrain import pretrain
from measured import measured
from processes import start

STEPS_KEPT = {
    "in a step": {0, 4},
    "after the best weights": {0, 4},
    "in a checkpoint": {0, 4},
    "before the oldest checkpoint goes": {0, 4, 8},
    "in a line of metrics.jsonl": {0, 4},
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, nursery_text: str) -> TrainConfig:
    """A run that was never killed."""
    folder = tmp_path_factory.mktemp("runs")
    corpus = folder / "nursery.txt"
    corpus.write_text(nursery_text, encoding="utf-8")
    config = short_run(corpus, folder / "whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GPTFAST_CACHE", str(folder / "cache"))
        pretrain(config, "test", Console(quiet=True))
    return config


@pytest.mark.parametrize("moment", STEPS_KEPT)
def test_a_run_killed_goes_on_bitwise(moment: str, whole: TrainConfig, tmp_path: Path) -> None:
    config = replace(whole, out=tmp_path / moment)
    arguments = [str(config.out), whole.corpus]
    team = start(1, arguments, tmp_path / "printed", train_and_be_killed, grouped=False)
    assert team.exit_codes() == [-signal.SIGKILL], team.printed()
    saved = (config.out / "training").glob("step-*")
    assert {int(path.name.removeprefix("step-")) for path in saved} == STEPS_KEPT[moment]
    pretrain(replace(config, resume=True), "test", Console(quiet=True))
    assert measured(config.out) == measured(whole.out)
    assert_same(everything(config.out), everything(whole.out))
    left = sorted(path.name for path in (config.out / "training").iterdir())
    assert left == ["best.json", "step-00000008", "step-00000012"]


def everything(folder: Path) -> dict[str, Any]:
    """What the run has made, but for how long it took."""
    last = folder / "training" / "step-00000012"
    state = json.loads((last / "state.json").read_text())
    del state["progress"]["seconds"], state["progress"]["training_seconds"]
    return {
        "best": (folder / "model.safetensors").read_bytes(),
        "last": (last / "model.safetensors").read_bytes(),
        "optimizer": torch.load(last / "optimizer.pt", weights_only=True),
        "state": state,
    }


def assert_same(a: Any, b: Any) -> None:
    """Bitwise, tensors in dictionaries and lists included; what was loaded may have tuples."""
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key, value in a.items():
            assert_same(value, b[key])
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for pair in zip(a, b, strict=True):
            assert_same(*pair)
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
    else:
        assert a == b
