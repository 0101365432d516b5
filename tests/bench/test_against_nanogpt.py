"""The comparison with nanoGPT, on a stand-in for its clone that is our own model underneath.

Where they can, the processes are forked, so that each need not import PyTorch again.
"""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from nanogpt_stand_in import clone_in

from gptfast.cli import cli
from gptfast.train.config import load_preset

ROOT = Path(__file__).parents[2]

COMPARE = """
import sys
from dataclasses import replace
import torch._dynamo  # which the first step of an optimizer imports, here before the forks
import against_nanogpt
from gptfast.cli import cli
from gptfast.train.config import load_preset

def tiny(name):
    preset = load_preset(name)
    model = replace(preset.model, block_size=8, n_layer=1, n_head=2, n_embd=16)
    return replace(preset, model=model, batch_size=8, micro_batch_size=4)

if __name__ == "__main__":
    against_nanogpt.load_preset = tiny
    against_nanogpt.PARITY_STEPS = 3
    against_nanogpt.PRODUCT_TOKENS = 32
    if sys.platform == "linux":
        against_nanogpt.START_METHOD = "fork"
    sys.exit(cli.run(against_nanogpt.main))
"""
# A fork does not survive OpenMP's threads, nor CUDA.
FORKS_WELL = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


@pytest.fixture
def nanogpt(tmp_path: Path) -> Path:
    return clone_in(tmp_path)


def compare(nanogpt: Path, corpus: Path, fault: str = "") -> subprocess.CompletedProcess[str]:
    program = nanogpt.parent / "compare.py"
    program.write_text(COMPARE)
    paths = os.pathsep.join(str(ROOT / name) for name in ("benchmarks", "python"))
    return subprocess.run(
        [sys.executable, str(program), "--nanogpt", str(nanogpt), "--corpus", str(corpus),
         "--rounds", "2", "--json", str(nanogpt.parent / "result.json")],
        capture_output=True, text=True, check=False, timeout=900,
        env=os.environ | {"PYTHONPATH": paths, "FAULT": fault} | FORKS_WELL,
    )  # fmt: skip


def imported(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("against_nanogpt")


def test_both_are_compared_in_both_dtypes(nanogpt: Path, corpus_file: Path) -> None:
    done = compare(nanogpt, corpus_file)
    assert done.returncode == 0, done.stderr
    result = json.loads((nanogpt.parent / "result.json").read_text())
    assert result["parity"]["largest_difference"] < 1e-5
    products = result["products_in_float32"]
    assert [(p["n_in"], p["n_out"]) for p in products][-1] == (1536, 384)
    assert all(min(p["forward"], p["inputs"], p["weights"]) > 0 for p in products)
    assert [(s["dropout"], s["dtype"]) for s in result["speed"]] == [
        (0.2, "float32"), (0.2, "bfloat16"), (0.0, "float32"), (0.0, "bfloat16"),
    ]  # fmt: skip
    for speed in result["speed"]:
        assert len(speed["ratios"]) == 2
        assert speed["nanogpt"] > 0 < speed["gptfast"]
        assert f"gptfast in {speed['dtype']} {speed['gptfast']:,.0f}" in done.stdout


def test_only_our_process_has_our_spin_count(
    nanogpt: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    against_nanogpt = imported(monkeypatch)
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    found = []

    class Context:
        Pipe = staticmethod(multiprocessing.Pipe)

        def Process(self, **_: object) -> SimpleNamespace:
            return SimpleNamespace(start=lambda: found.append(os.environ.get("GOMP_SPINCOUNT")))

    monkeypatch.setattr(against_nanogpt.multiprocessing, "get_context", lambda _: Context())
    config = load_preset("nanogpt-shakespeare")
    for clone in (nanogpt, None):
        against_nanogpt.Side(clone, config)
    assert found == [None, "7"]
    assert os.environ["GOMP_SPINCOUNT"] == "7"


def test_a_process_loads_pytorch_before_gptfast_sets_the_spin_count() -> None:
    code = (
        "import os, sys\n"
        "class Finder:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'torch':\n"
        "            sys.exit(print(os.environ.get('GOMP_SPINCOUNT')))\n"
        "sys.meta_path.insert(0, Finder())\n"
        "import against_nanogpt\n"
    )
    environment = {k: v for k, v in os.environ.items() if k != "GOMP_SPINCOUNT"}
    paths = os.pathsep.join(str(ROOT / folder) for folder in ("benchmarks", "python"))
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment | {"PYTHONPATH": paths},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout == "None\n", done.stderr


def test_without_a_process_there_is_no_speed(nanogpt: Path, corpus_file: Path) -> None:
    done = compare(nanogpt, corpus_file, fault="dies")
    assert done.returncode == 1
    assert "a process ended with code 7" in done.stderr
    assert "tokens/s" not in done.stdout


def test_without_agreement_there_is_no_speed(
    nanogpt: Path, corpus_file: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    against_nanogpt = imported(monkeypatch)
    monkeypatch.setenv("FAULT", "other losses")
    monkeypatch.setattr(against_nanogpt, "PARITY_STEPS", 3)
    monkeypatch.setattr(against_nanogpt, "speed", lambda *_: pytest.fail("a speed is measured"))
    arguments = ["--nanogpt", str(nanogpt), "--corpus", str(corpus_file)]
    assert cli.run(against_nanogpt.main, arguments) == 1
    printed = capsys.readouterr()
    assert "so no speed is measured" in printed.err
    assert "tokens/s" not in printed.out
