"""metrics.jsonl always; TensorBoard and trackio when asked for."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from dataclasses import replace
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from rich.console import Console

from gptfast.cli import cli
from gptfast.model import ModelConfig
from gptfast.train import recovery
from gptfast.train.__main__ import main as train
from gptfast.train.config import TrainConfig
from gptfast.train.metrics import Metrics, scalars
from gptfast.train.pretrain import pretrain

NO_TENSORBOARD = "needs TensorBoard: pip install tensorboard"
NO_TRACKIO = "needs trackio, which can't be installed beside the pinned Pillow: pip install trackio"


@pytest.fixture
def config(corpus_file: Path, tmp_path: Path) -> TrainConfig:
    return TrainConfig(
        out=tmp_path / "run", corpus=str(corpus_file), tokenizer="char",
        model=ModelConfig(1024, block_size=16, n_layer=1, n_head=2, n_embd=16),
        max_steps=20, batch_size=2, warmup_steps=2, eval_interval=10, eval_windows=2, device="cpu",
        dtype="float32",
    )  # fmt: skip


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


class Recorded(ModuleType):
    """Stands in for trackio: keeps what it is told."""

    def __init__(self, fails: bool = False) -> None:
        super().__init__("trackio")
        self.__spec__ = ModuleSpec("trackio", None)
        self.fails = fails
        self.inits: list[dict[str, Any]] = []
        self.logged: list[tuple[int, dict[str, float]]] = []
        self.finished = 0

    def init(self, **settings: Any) -> None:
        self.inits.append(settings)

    def log(self, numbers: dict[str, float], step: int) -> None:
        if self.fails:
            raise OSError("no space left")
        self.logged.append((step, numbers))

    def finish(self) -> None:
        self.finished += 1


@pytest.fixture
def trackio(monkeypatch: pytest.MonkeyPatch) -> Recorded:
    recorded = Recorded()
    monkeypatch.setitem(sys.modules, "trackio", recorded)
    return recorded


def tensorboard_scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """{name: [(step, value), ...]} by TensorBoard's own reader."""
    module = "tensorboard.backend.event_processing.event_accumulator"
    reader = pytest.importorskip(module, reason=NO_TENSORBOARD)
    events = reader.EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


def test_tensorboard_reads_back_what_metrics_jsonl_has(config: TrainConfig) -> None:
    pytest.importorskip("tensorboard", reason=NO_TENSORBOARD)
    model = replace(config.model, bias=False, n_expert=4, n_hidden=32)
    config = replace(config, model=model, log_to=("tensorboard",))
    pretrain(config, "test", Console(quiet=True))
    read = tensorboard_scalars(config.out)
    assert {name: [step for step, _ in values] for name, values in read.items()} == {
        "val_loss": [0, 10, 20], "val_bits_per_byte": [0, 10, 20], "loss": [10, 20],
        "learning_rate": [10, 20], "grad_norm": [10, 20], "tokens_per_second": [10, 20],
        "peak_memory": [10, 20],
        "seconds": [0, 10, 10, 20, 20], **{f"expert_shares/0/{e}": [10, 20] for e in range(4)},
    }  # fmt: skip
    for name in ("loss", "val_loss"):
        written = [(m["step"], m[name]) for m in lines(config.out) if name in m]
        assert dict(read[name]) == pytest.approx(dict(written), rel=1e-6)
    shares = [m["expert_shares"][0][2] for m in lines(config.out) if "expert_shares" in m]
    assert [value for _, value in read["expert_shares/0/2"]] == pytest.approx(shares, rel=1e-6)
    # Another run in its place does not mix with it.
    pretrain(replace(config, overwrite=True, max_steps=10), "test", Console(quiet=True))
    assert [step for step, _ in tensorboard_scalars(config.out)["loss"]] == [10]
    pretrain(replace(config, overwrite=True, log_to=()), "test", Console(quiet=True))
    assert not (config.out / "tensorboard").exists()


def test_tensorboards_steps_go_on_after_a_resume(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason=NO_TENSORBOARD)
    for step in (10, 20):
        metrics = Metrics(tmp_path, print, True, ["tensorboard"])
        metrics.log(step, loss=step / 8)
        metrics.close()
    assert tensorboard_scalars(tmp_path) == {"loss": [(10, 1.25), (20, 2.5)]}


def test_trackio_gets_every_line(config: TrainConfig, trackio: Recorded) -> None:
    pretrain(replace(config, log_to=("trackio",)), "test", Console(quiet=True))
    written = [(m.pop("step"), m) for m in lines(config.out)]
    assert trackio.logged == written
    assert [step for step, _ in written] == [0, 10, 10, 20, 20]
    name = {"project": "gptfast", "name": str(config.out), "embed": False}
    assert trackio.inits == [name | {"resume": "never"}]
    assert trackio.finished == 1


def test_a_resumed_run_is_the_same_run_in_trackio(tmp_path: Path, trackio: Recorded) -> None:
    metrics = Metrics(tmp_path, print, True, ["trackio"])
    metrics.log(10, loss=1.0)
    again = Metrics(tmp_path, print, True, ["trackio"])
    again.go_back_to(5)
    again.log(10, loss=2.0)
    assert [settings["resume"] for settings in trackio.inits] == ["never", "allow"]
    assert trackio.logged == [(10, {"loss": 1.0}), (10, {"loss": 2.0})]
    assert lines(tmp_path) == [{"step": 10, "loss": 2.0}]


def test_other_processes_log_nothing(tmp_path: Path, trackio: Recorded) -> None:
    metrics = Metrics(tmp_path, print, False, ["trackio"])
    metrics.log(10, loss=1.0)
    metrics.close()
    assert trackio.inits == trackio.logged == []
    assert list(tmp_path.iterdir()) == []


def test_a_tracker_that_fails_costs_itself_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "trackio", Recorded(fails=True))
    logged: list[str] = []
    metrics = Metrics(tmp_path, logged.append, True, ["trackio"])
    for step in (10, 20):
        metrics.log(step, loss=1.0)
    metrics.close()
    assert logged == ["Trackio failed (OSError('no space left')): the run continues without it"]
    assert [line["step"] for line in lines(tmp_path)] == [10, 20]


def test_a_tracker_that_cant_be_started_costs_itself_alone(
    config: TrainConfig, trackio: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(**_: Any) -> None:
        raise OSError("no database")

    monkeypatch.setattr(trackio, "init", fail)
    console = Console(record=True, file=io.StringIO(), soft_wrap=True)
    assert pretrain(replace(config, log_to=("trackio",)), "test", console) is not None
    assert "trackio can't be started (OSError('no database'))" in console.export_text()


def test_a_full_disk_leaves_no_half_line(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    logged: list[str] = []
    metrics = Metrics(tmp_path, logged.append, is_main=True)
    metrics.log(1, loss=1.0)
    # Writing beyond that fails, as on a full disk; Python ignores the signal that it comes with.
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (metrics.path.stat().st_size + 5, limits[1]))
    try:
        for step in (2, 3):
            metrics.log(step, loss=1.0)
        metrics.go_back_to(2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    metrics.log(4, loss=1.0)
    assert [line["step"] for line in lines(tmp_path)] == [1, 4]
    (message,) = logged
    assert "the run continues without it" in message


def test_the_trackers_are_closed_when_a_run_ends_with_an_error(
    config: TrainConfig, trackio: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:

    def die(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(recovery, "check_finite", die)
    with pytest.raises(ZeroDivisionError):
        pretrain(replace(config, log_to=("trackio",)), "test", Console(quiet=True))
    assert trackio.finished == 1


def test_trackers_may_be_changed_when_a_run_goes_on(config: TrainConfig, trackio: Recorded) -> None:
    first = pretrain(config, "test", Console(quiet=True))
    changed = replace(config, log_to=("trackio",), sample_interval=5, resume=True)
    assert pretrain(changed, "test", Console(quiet=True)) == first


@pytest.mark.parametrize("name", ["tensorboard", "trackio"])
def test_a_missing_package_is_one_line_and_nothing_is_written(
    name: str,
    corpus_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    before = set(tmp_path.iterdir())
    out = tmp_path / "run"
    arguments = ["--corpus", str(corpus_file), "--out", str(out), "--log-to", name]
    assert cli.run(train, arguments) == 2
    error = capsys.readouterr().err
    assert error == (
        f"error: log_to has '{name}', but that package is not installed: pip install {name}\n"
    )
    assert set(tmp_path.iterdir()) == before


def test_lists_are_numbered() -> None:
    values = {"loss": 1.5, "shares": [[0.25, 0.75], [1.0]], "counts": [3]}
    assert scalars(values) == {
        "loss": 1.5, "shares/0/0": 0.25, "shares/0/1": 0.75, "shares/1/0": 1.0, "counts/0": 3,
    }  # fmt: skip


TRACKIO = """
import sys
from pathlib import Path
import trackio
from trackio.sqlite_storage import SQLiteStorage
from gptfast.train.metrics import Metrics

for step in (10, 20):  # the second time the run continues
    metrics = Metrics(Path(sys.argv[1]), print, True, ["trackio"])
    metrics.log(step, loss=step / 8, shares=[0.5])
    metrics.close()
(run,) = trackio.Api().runs("gptfast")
logs = SQLiteStorage.get_logs("gptfast", run.name)
print(run.name == sys.argv[1], [(m["step"], m["loss"], m["shares/0"]) for m in logs])
"""


def test_the_real_trackio_reads_back(tmp_path: Path) -> None:
    pytest.importorskip("trackio", reason=NO_TRACKIO)
    environment = os.environ | {"TRACKIO_DIR": str(tmp_path / "trackio")}
    command = [sys.executable, "-c", TRACKIO, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "True [(10, 1.25, 0.5), (20, 2.5, 0.5)]"
