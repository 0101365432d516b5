"""kill -9 at the worst moments: the run that goes on is bitwise the one that was never killed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from measured import measured
from rich.console import Console

from gptfast.model import ModelConfig
from gptfast.train.config import TrainConfig
from gptfast.train.pretrain import pretrain

TRAIN_AND_BE_KILLED = """
import json, os, shutil, signal, sys
from pathlib import Path
import torch
from rich.console import Console
from gptfast.model import ModelConfig
from gptfast.train.checkpoint import State
from gptfast.train.config import TrainConfig
from gptfast.train.metrics import Metrics
from gptfast.train.pretrain import pretrain
from gptfast.train.recovery import Recovery

out, corpus, moment = Path(sys.argv[1]), sys.argv[2], sys.argv[3]

def kill_before(owner, name, is_time, first=lambda *arguments: None):
    function = getattr(owner, name)

    def killed(*arguments, **settings):
        if is_time(*arguments):
            first(*arguments)
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **settings)

    setattr(owner, name, killed)

saves = iter(range(100))
if moment == "in a step":
    # The weights have changed, and nothing else has happened yet.
    kill_before(State, "lap", lambda state: state.progress.step == 8)
if moment == "after the best weights":
    kill_before(Recovery, "save", lambda recovery: recovery.state.progress.step == 8)
if moment == "in a checkpoint":
    half = lambda _, path: Path(path).write_bytes(b"PK")
    kill_before(torch, "save", lambda *_: next(saves) == 2, half)
if moment == "before the oldest checkpoint goes":
    kill_before(shutil, "rmtree", lambda path, *_: Path(path).name == "step-00000000")
if moment == "in a line of metrics.jsonl":
    half = lambda metrics, *_: metrics.path.open("a").write('{"step": 8, "lo')
    kill_before(Metrics, "log", lambda *_: next(saves) == 2, half)

model = ModelConfig(1024, block_size=16, n_layer=2, n_head=2, n_embd=16, dropout=0.1)
config = TrainConfig(
    out=out, corpus=corpus, tokenizer="char", model=model,
    max_steps=12, batch_size=4, warmup_steps=2, eval_interval=4, eval_windows=4, dtype="float32",
)
pretrain(config, "test", Console(quiet=True))
"""


@pytest.mark.parametrize(
    ("moment", "steps_kept"),
    [
        ("in a step", {0, 4}),
        ("after the best weights", {0, 4}),
        ("in a checkpoint", {0, 4}),
        ("before the oldest checkpoint goes", {0, 4, 8}),
        ("in a line of metrics.jsonl", {0, 4}),
    ],
)
def test_a_run_killed_goes_on_bitwise(
    moment: str, steps_kept: set[int], corpus_file: Path, tmp_path: Path
) -> None:
    config = TrainConfig(
        out=tmp_path / "run", corpus=str(corpus_file), tokenizer="char",
        model=ModelConfig(1024, block_size=16, n_layer=2, n_head=2, n_embd=16, dropout=0.1),
        max_steps=12, batch_size=4, warmup_steps=2, eval_interval=4, eval_windows=4,
        dtype="float32",
    )  # fmt: skip
    whole = replace(config, out=tmp_path / "whole")
    pretrain(whole, "test", Console(quiet=True))
    killed = subprocess.run(
        [sys.executable, "-c", TRAIN_AND_BE_KILLED, str(config.out), str(corpus_file), moment],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    saved = (config.out / "training").glob("step-*")
    assert {int(path.name.removeprefix("step-")) for path in saved} == steps_kept
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
