"""kill -9 at the worst moments: the run that goes on is bitwise the one that was never killed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from gptfast.model import ModelConfig
from gptfast.train.config import TrainConfig
from gptfast.train.pretrain import pretrain
from measured import measured

# Trains and is killed at each moment, in children that needn't import PyTorch again.
TRAIN_AND_BE_KILLED = """
import json, os, shutil, signal, sys, traceback
from pathlib import Path
import torch
import torch._dynamo  # every optimizer imports it, which takes a second
from rich.console import Console
from gptfast.model import ModelConfig
from gptfast.train.checkpoint import State
from gptfast.train.config import TrainConfig
from gptfast.train.metrics import Metrics
from gptfast.train.pretrain import pretrain
from gptfast.train.recovery import Recovery

def kill_before(owner, name, is_time, first=lambda *arguments: None):
    function = getattr(owner, name)

    def killed(*arguments, **settings):
        if is_time(*arguments):
            first(*arguments)
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **settings)

    setattr(owner, name, killed)

def train_and_be_killed(out, corpus, moment):
    saves = iter(range(100))
    if moment == "in a step":
        # The weights have changed, and nothing else has happened yet.
        kill_before(State, "lap", lambda state: state.progress.step == 8)
    if moment == "after the best weights":
        kill_before(Recovery, "save", lambda recovery: recovery.state.progress.step == 8)
    if moment == "in a checkpoint":
        half = lambda _, file: (file.write(b"PK"), file.flush())
        kill_before(torch, "save", lambda *_: next(saves) == 2, half)
    if moment == "before the oldest checkpoint goes":
        kill_before(shutil, "rmtree", lambda path, *_: Path(path).name == "step-00000000")
    if moment == "in a line of metrics.jsonl":
        half = lambda metrics, *_: metrics.path.open("a").write('{"step": 8, "lo')
        kill_before(Metrics, "log", lambda *_: next(saves) == 2, half)
    model = ModelConfig(1024, block_size=16, n_layer=2, n_head=2, n_embd=16, dropout=0.1)
    config = TrainConfig(
        out=out, corpus=corpus, tokenizer="char", model=model, max_steps=12, batch_size=4,
        warmup_steps=2, eval_interval=4, eval_windows=4, dtype="float32",
    )
    pretrain(config, "test", Console(quiet=True))

folder, corpus, *moments = sys.argv[1:]
exit_codes = {}
for moment in moments:
    child = os.fork()
    if child == 0:
        try:
            train_and_be_killed(Path(folder) / moment, corpus, moment)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(1)  # it should have been killed
    exit_codes[moment] = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
print(json.dumps(exit_codes))
"""

STEPS_KEPT = {
    "in a step": {0, 4},
    "after the best weights": {0, 4},
    "in a checkpoint": {0, 4},
    "before the oldest checkpoint goes": {0, 4, 8},
    "in a line of metrics.jsonl": {0, 4},
}


@dataclass(frozen=True)
class Runs:
    """A run that was never killed, and beside it those that were, named by the moment."""

    whole: TrainConfig
    exit_codes: dict[str, int]
    errors: str


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, nursery_text: str) -> Runs:
    folder = tmp_path_factory.mktemp("runs")
    corpus = folder / "nursery.txt"
    corpus.write_text(nursery_text, encoding="utf-8")
    whole = TrainConfig(
        out=folder / "whole", corpus=str(corpus), tokenizer="char",
        model=ModelConfig(1024, block_size=16, n_layer=2, n_head=2, n_embd=16, dropout=0.1),
        max_steps=12, batch_size=4, warmup_steps=2, eval_interval=4, eval_windows=4,
        dtype="float32",
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GPTFAST_CACHE", str(folder / "cache"))
        pretrain(whole, "test", Console(quiet=True))
        done = subprocess.run(
            [sys.executable, "-c", TRAIN_AND_BE_KILLED, str(folder), str(corpus), *STEPS_KEPT],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
    return Runs(whole, json.loads(done.stdout), done.stderr)


@pytest.mark.parametrize("moment", STEPS_KEPT)
def test_a_run_killed_goes_on_bitwise(moment: str, runs: Runs) -> None:
    whole = runs.whole
    config = replace(whole, out=whole.out.with_name(moment))
    assert runs.exit_codes[moment] == -signal.SIGKILL, runs.errors
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
