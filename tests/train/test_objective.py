"""Another kind of training is a source and an objective, and no loop of its own."""

from __future__ import annotations

import json
import signal
from dataclasses import replace
from pathlib import Path

import pytest
from toy import main, prepare, settings

from gptfast.errors import UserError
from gptfast.model.folder import load_model
from gptfast.train.run import run
from measured import measured
from processes import start


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
    killed = start(1, [str(tmp_path / "run"), "34"], tmp_path / "printed", main, grouped=False)
    assert killed.exit_codes() == [-signal.SIGKILL], killed.printed()
    run(settings(tmp_path / "run", resume=True), prepare)
    assert measured(tmp_path / "run") == measured(tmp_path / "whole")
    names = ("model.safetensors", "training/step-00000060/model.safetensors")
    for name in names:
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_two_processes_have_the_losses_of_one(tmp_path: Path) -> None:
    start(2, [str(tmp_path / "two")], tmp_path / "printed", main).finished()
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

    with pytest.raises(UserError, match="has changed since"):
        run(replace(config, resume=True), prepare_other)
