"""The benchmarks that train to the end: beside nanoGPT's train.py, and beside the plan."""

from __future__ import annotations

import importlib
import json
import subprocess
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from gptfast.cli import cli
from gptfast.train.__main__ import main as train
from gptfast.train.config import load_preset

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
THEIR_PREPARE = """
from pathlib import Path
folder = Path(__file__).parent
(folder / "train.bin").write_text(str(len((folder / "input.txt").read_text())))
"""
THEIR_TRAIN = """
import os, sys, time
from pathlib import Path
assert sys.argv[1] == "config/train_shakespeare_char.py" and "--n_embd=128" in sys.argv
assert int(Path("data/shakespeare_char/train.bin").read_text()) > 10_000
for step, loss in ((0, 4.2), (250, 3.5), (500, 3.25)):
    print(f"step {step}: train loss 1.0000, val loss {loss:.4f}")
    with open(os.environ["EVALUATIONS"], "a") as evaluations:
        print(time.monotonic(), file=evaluations)
    print(f"iter {step}: loss 1.0000, time 1.00ms")
    time.sleep(1)
sys.exit(len(sys.argv) > 100)
"""


@pytest.fixture
def benchmark_module(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module(request.param)


@pytest.mark.parametrize("benchmark_module", ["nanogpt_recipe"], indirect=True)
def test_nanogpts_recipe_is_timed_from_its_first_evaluation_to_its_last(
    benchmark_module: ModuleType, corpus_file: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Our training runs in this process, which need not import PyTorch again."""
    run_process = benchmark_module.subprocess.run

    def run(command: list[str], **options: object) -> object:
        if command[1:3] != ["-m", "gptfast.train"]:
            return run_process(command, **options)
        assert train([*command[3:], "--max-steps", "15"]) == 0
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(benchmark_module.subprocess, "run", run)
    evaluations = tmp_path / "evaluations"
    monkeypatch.setenv("EVALUATIONS", str(evaluations))
    nanogpt = tmp_path / "nanoGPT"
    (nanogpt / "data" / "shakespeare_char").mkdir(parents=True)
    (nanogpt / "train.py").write_text(THEIR_TRAIN)
    (nanogpt / "data" / "shakespeare_char" / "prepare.py").write_text(THEIR_PREPARE)
    result = tmp_path / "result.json"
    arguments = ["--corpus", str(corpus_file), "--json", str(result)]
    assert cli.run(benchmark_module.main, ["--nanogpt", str(nanogpt), *arguments]) == 0
    found = json.loads(result.read_text())
    assert found["nanogpt"]["val_loss"] == 3.25
    first, _, last = map(float, evaluations.read_text().split())
    assert found["nanogpt"]["seconds"] == pytest.approx(last - first, abs=0.9)
    assert found["shakespeare-20s"]["val_loss"] <= 3.25
    assert "nanoGPT: val 3.2500 after" in capsys.readouterr().out
    assert not (nanogpt / "data" / "shakespeare_char" / "input.txt").exists()
    assert cli.run(benchmark_module.main, ["--nanogpt", str(tmp_path), *arguments]) == 2
    assert "expected a clone of karpathy/nanoGPT" in capsys.readouterr().err


@pytest.mark.parametrize("benchmark_module", ["plans"], indirect=True)
def test_plans_are_held_against_what_the_runs_take(
    benchmark_module: ModuleType, corpus_file: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    preset = load_preset("shakespeare-cpu")
    small = replace(preset.model, block_size=16, n_layer=1, n_head=2, n_embd=16)
    tiny = replace(preset, model=small, max_steps=4, eval_interval=2, eval_windows=2)
    monkeypatch.setattr(benchmark_module, "load_preset", lambda _: tiny)
    monkeypatch.setattr(benchmark_module, "PROBE_SECONDS", 0.1)
    result = tmp_path / "result.json"
    arguments = ["tiny", "--corpus", str(corpus_file), "--json", str(result)]
    assert cli.run(benchmark_module.main, arguments) == 0
    (found,) = json.loads(result.read_text())["plans"]
    assert found["real"] > 0
    assert found["ratio"] == pytest.approx(found["predicted"] / found["real"])
    assert found["met"] == (abs(found["ratio"] - 1) <= 0.15)
