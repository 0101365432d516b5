from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.console import Console

from gptfast.cli import cli
from gptfast.ladder import __main__ as ladder_module
from gptfast.ladder.__main__ import LadderConfig, climb
from gptfast.ladder.__main__ import main as ladder
from gptfast.ladder.rungs import rung_config, rungs
from gptfast.model import build_model
from gptfast.model.folder import load_model
from gptfast.train.run import delete_model

NAMES = ["bigram", "average", "head", "multihead", "residual", "gpt"]


def delete_and_stop(folder: Path) -> None:
    delete_model(folder)
    raise KeyboardInterrupt


def test_a_short_climb_leaves_table_json_and_picture(
    corpus_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "ladder"
    arguments = ["--corpus", str(corpus_file), "--out", str(out), "--max-steps", "3"]
    assert cli.run(ladder, arguments) == 0
    printed = capsys.readouterr().out
    results = json.loads((out / "ladder.json").read_text(encoding="utf-8"))
    assert [r["name"] for r in results] == NAMES
    assert (out / "ladder.png").read_bytes().startswith(b"\x89PNG")
    table = (out / "ladder.md").read_text(encoding="utf-8")
    for r in results:
        assert {"name", "parameters", "val_loss", "tokens_per_second", "sample"} <= r.keys()
        model, _ = load_model(out / r["name"])
        assert r["parameters"] == sum(p.numel() for p in model.parameters())
        assert r["steps"] == 3
        assert f"{r['val_loss']:.4f}" in printed
        assert f"| {r['name']} |" in table
        assert len(r["sample"]) == 200
    assert "Why equal weights are not enough" in printed
    # A second climb into the same folder must be asked for; what is finished is kept.
    assert cli.run(ladder, arguments) == 2
    assert "already holds a ladder: give --resume" in capsys.readouterr().err
    assert cli.run(ladder, [*arguments, "--max-steps", "0"]) == 2
    assert "max_steps is 0: expected at least 1" in capsys.readouterr().err
    # A mistake deletes nothing.
    (tmp_path / "short.txt").write_text("too short for a context " * 20)
    for corpus in ("nowhere.txt", str(tmp_path / "short.txt")):
        assert cli.run(ladder, [*arguments, "--overwrite", "--corpus", corpus]) == 2
    assert "val part of" in capsys.readouterr().err
    assert len(list(out.glob("*/model.safetensors"))) == len(NAMES)
    # Replaced as a whole: whenever it is stopped, nothing of the old ladder is left to mix in.
    (out / "gpt" / "notes.txt").write_text("mine")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ladder_module, "delete_model", delete_and_stop)
        assert cli.run(ladder, [*arguments, "--overwrite"]) == 130
    assert json.loads((out / "bigram" / "run.json").read_text())["result"] is None
    (out / "average" / "run.json").write_text("damaged")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ladder_module, "run", lambda *_: None)
        assert cli.run(ladder, [*arguments, "--overwrite"]) == 130
    assert "--resume" in capsys.readouterr().out.splitlines()[-1]
    assert not list(out.glob("*/run.json"))
    assert [p.name for p in (out / "gpt").iterdir()] == ["notes.txt"]
    (out / "gpt" / "notes.txt").unlink()
    assert cli.run(ladder, [*arguments, "--resume"]) == 0
    again = json.loads((out / "ladder.json").read_text(encoding="utf-8"))
    assert [r["val_loss"] for r in again] == [r["val_loss"] for r in results]


def test_full_is_the_10_million_parameter_configuration() -> None:
    config = rung_config(rungs(full=True)[-1], "x", Path("y"), 0)
    wanted = {"block_size": 256, "n_embd": 384, "n_head": 6, "n_layer": 6, "dropout": 0.2}
    assert {name: getattr(config.model, name) for name in wanted} == wanted
    assert config.max_steps == 5000
    parameters = build_model(config.model_config(65)).n_parameters()
    # 12 C^2 + 13 C per block, embeddings of 65 tokens and 256 positions, the last norm.
    assert parameters == 6 * (12 * 384**2 + 13 * 384) + (65 + 256) * 384 + 2 * 384


@pytest.mark.slow
def test_each_learned_rung_beats_the_one_below(corpus_file: Path, tmp_path: Path) -> None:
    config = LadderConfig(corpus=str(corpus_file), out=tmp_path, max_steps=150)
    below_the_gpt = rungs(full=False)[:-1]
    results = [climb(rung, config, "test", Console(quiet=True)) for rung in below_the_gpt]
    loss = {result.name: result.val_loss for result in results if result}
    assert loss["average"] > loss["bigram"] > loss["multihead"] > loss["residual"]


@pytest.mark.slow
def test_the_lowest_rungs_on_tinyshakespeare(shared_data: Path, tmp_path: Path) -> None:
    config = LadderConfig(corpus=str(shared_data / "tinyshakespeare.txt"), out=tmp_path)
    loss = {}
    for rung in rungs(full=False)[:3]:
        result = climb(rung, config, "test", Console(quiet=True))
        assert result
        loss[rung.name] = result.val_loss
    # The entropy of a character given the one before is 2.45 nats in train; Karpathy's lecture has
    # about 2.5 for the bigram.
    assert 2.45 < loss["bigram"] < 2.52
    # No positions, no residual: one head is ahead by a hair. Equal weights are far behind.
    assert loss["head"] < loss["bigram"] - 0.01
    assert loss["average"] > loss["bigram"] + 0.5
