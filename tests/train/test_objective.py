"""Another kind of training is a source and an objective, and no loop of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from measured import measured
from toy import prepare, settings

from gptfast.errors import UserError
from gptfast.model.folder import load_model
from gptfast.train.run import run

ROOT = Path(__file__).parents[2]
TOY = str(Path(__file__).with_name("toy.py"))


def start(program: list[str], *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT / "python")}
    if program:  # several processes
        environment["OMP_NUM_THREADS"] = "1"
    command = [sys.executable, *program, TOY, *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def test_it_trains_and_measures_what_it_wants(tmp_path: Path) -> None:
    result = run(settings(tmp_path / "run"), prepare)
    assert result is not None
    assert result.measured["accuracy"] > 0.9
    evaluations = [m for m in measured(tmp_path / "run") if "val_loss" in m]
    assert evaluations[0]["accuracy"] < 0.8
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["fingerprint"] == "two letters"
    model, tokenizer = load_model(tmp_path / "run")
    assert (model.config.n_embd, tokenizer.n_vocab) == (16, 2)


def test_killed_it_resumes_bitwise(tmp_path: Path) -> None:
    run(settings(tmp_path / "whole"), prepare)
    killed = start([], str(tmp_path / "run"), "34")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    run(settings(tmp_path / "run", resume=True), prepare)
    assert measured(tmp_path / "run") == measured(tmp_path / "whole")
    names = ("model.safetensors", "training/step-00000060/model.safetensors")
    for name in names:
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_two_processes_have_the_losses_of_one(tmp_path: Path) -> None:
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node=2", "--rdzv-backend=c10d",
                "--rdzv-endpoint=localhost:0"]  # fmt: skip
    done = start(torchrun, str(tmp_path / "two"))
    assert done.returncode == 0, done.stderr
    run(settings(tmp_path / "one"), prepare)
    one, two = measured(tmp_path / "one"), measured(tmp_path / "two")
    assert [m["step"] for m in one] == [m["step"] for m in two]
    for a, b in zip(one, two, strict=True):
        for name in ("loss", "val_loss"):
            assert a.get(name) == pytest.approx(b.get(name), abs=1e-5)


def test_other_data_are_refused(tmp_path: Path) -> None:
    config = settings(tmp_path / "run", max_steps=2)
    run(config, prepare)

    def prepare_other(config, console):  # type: ignore[no-untyped-def]
        task = prepare(config, console)
        task.source.fingerprint = "other letters"
        return task

    with pytest.raises(UserError, match="the corpus or the tokenizer has changed"):
        run(replace(config, resume=True), prepare_other)
