"""Two processes on the CPU (gloo) against one: the same losses, and checkpoints for any number.

Most are forked (processes.py); torchrun itself starts those that are sent SIGTERM.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from programs import (
    print_patience,
    train_and_count_threads,
    train_and_hang,
    train_with_a_bad_batch,
)
from safetensors.torch import load_file

from gptfast.errors import RunError
from gptfast.model.folder import load_model
from gptfast.train.__main__ import main as train
from gptfast.train.distributed import World
from processes import start

ROOT = Path(__file__).parents[2]
SMALL = [
    "--tokenizer", "char", "--block-size", "16", "--n-layer", "2", "--n-head", "2",
    "--n-embd", "16", "--batch-size", "8", "--max-steps", "20", "--eval-interval", "5",
    "--eval-windows", "5", "--warmup-steps", "2", "--device", "cpu", "--dtype", "float32",
    "--sample-interval", "0",
]  # fmt: skip
# Balanced by a loss, a process would see only the choices of its own tokens.
EXPERTS = [
    "--expert-balance",
    "bias",
    "--no-bias",
    "--n-expert",
    "4",
    "--n-hidden",
    "32",
    "--positions",
    "rotary",
]
# The corpus beside itself; {corpus} is its path.
MIXTURE = [
    "--mix-corpora", "{corpus}", "--corpus-weights", "1", "2", "--tokenizer", "bpe",
    "--vocab-size", "300",    "--mask-documents", "--max-ngram", "3", "--ngram-rows", "100",
]  # fmt: skip


def losses(folder: Path) -> dict[tuple[int, str], float]:
    """(step, which loss): its value, of every line of metrics.jsonl."""
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    kinds = ("loss", "val_loss")
    return {(m["step"], kind): m[kind] for m in lines for kind in kinds if kind in m}


@pytest.mark.parametrize(
    "settings",
    [
        ["--parallel", "ddp", "--sample-interval", "5"],
        ["--parallel", "ddp", "--micro-batch-size", "2", "--optimizer", "adamw"],
        ["--parallel", "fsdp"],
        ["--parallel", "fsdp", "--micro-batch-size", "2", *EXPERTS],
        ["--parallel", "ddp", *EXPERTS],
        ["--parallel", "ddp", *MIXTURE],
        ["--parallel", "fsdp", *MIXTURE],
    ],
    ids=" ".join,
)
def test_two_processes_have_the_losses_of_one(
    settings: list[str], corpus_file: Path, tmp_path: Path
) -> None:
    settings = [setting.format(corpus=corpus_file) for setting in settings]
    arguments = ["--corpus", str(corpus_file), *SMALL, *settings]
    assert train([*arguments, "--out", str(tmp_path / "one")]) == 0
    out = start(2, [*arguments, "--out", str(tmp_path / "two")], tmp_path / "printed").finished()
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert one.keys() == two.keys()
    assert len(one) == 2 + 5
    for key, loss in one.items():
        assert two[key] == pytest.approx(loss, abs=1e-5), key
    # Only one of the processes talks, and says that there are two.
    assert out.count("val loss") == 5 + 1
    assert "on 2 x cpu" in out
    assert "\n  torchrun" not in out  # nobody samples with two processes
    record = json.loads((tmp_path / "two" / "run.json").read_text())
    assert record["hardware"]["processes"] == 2
    assert record["command"].startswith("torchrun --nproc-per-node=2 -m gptfast.train")
    model, _ = load_model(tmp_path / "two")
    assert model.config.n_embd == 16


@pytest.mark.slow
@pytest.mark.parametrize(
    ("parallel", "first", "then"), [("fsdp", 2, 1), ("fsdp", 2, 4), ("ddp", 1, 2)]
)
def test_a_checkpoint_of_some_processes_is_resumed_by_others(
    parallel: str, first: int, then: int, corpus_file: Path, tmp_path: Path
) -> None:
    whole = ["--corpus", str(corpus_file), *SMALL, "--parallel", parallel]
    assert train([*whole, "--out", str(tmp_path / "whole")]) == 0
    arguments = [*whole, "--out", str(tmp_path / "moved")]
    team = start(first, arguments, tmp_path / "printed", train_and_hang)
    deadline = time.monotonic() + 400
    training = tmp_path / "moved" / "training"
    while not any(path.name > "step-00000000" for path in training.glob("step-*")):
        assert team.are_running(), team.printed()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    team.kill()
    saved = sorted(training.glob("step-*"))[-1]
    weights = load_file(saved / "model.safetensors")
    assert weights["transformer.wte.weight"].shape[1] == 16  # whole, not a shard
    if then == 1:
        assert train([*arguments, "--resume"]) == 0
    else:
        out = start(then, [*arguments, "--resume"], tmp_path / "printed again").finished()
        assert re.search(r"from step \d+", out)
    expected, moved = losses(tmp_path / "whole"), losses(tmp_path / "moved")
    assert moved.keys() == expected.keys()
    for key, loss in moved.items():
        assert loss == pytest.approx(expected[key], abs=1e-4), key


def test_processes_wait_while_one_prepares_and_saves(tmp_path: Path) -> None:
    # By default half an hour, and with NCCL ten minutes: less than encoding a corpus may take.
    assert float(start(1, [], tmp_path / "printed", print_patience).finished()) >= 3600


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_a_batch_that_is_bad_in_one_process_is_skipped_by_all(
    parallel: str, corpus_file: Path, tmp_path: Path
) -> None:
    arguments = ["--corpus", str(corpus_file), *SMALL, "--parallel", parallel]
    teams = [
        start(
            n, [*arguments, "--out", str(tmp_path / out)], tmp_path / f"{out} printed",
            train_with_a_bad_batch, grouped=n > 1,
        )
        for n, out in ((1, "one"), (2, "two"))
    ]  # fmt: skip
    _, out = [team.finished() for team in teams]
    assert out.count("back to step 10; batch 13 will be skipped") == 1
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert one.keys() == two.keys()
    for key, loss in one.items():
        assert two[key] == pytest.approx(loss, abs=1e-5), key
    skipped = json.loads((tmp_path / "two" / "training" / "skipped.json").read_text())
    assert skipped == [13]


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_no_thread_of_the_process_group_outlives_the_run(
    parallel: str, corpus_file: Path, tmp_path: Path
) -> None:
    # Those that did aborted the process as it ended, once in some hundred times.
    arguments = ["--corpus", str(corpus_file), *SMALL, "--max-steps", "2", "--parallel", parallel]
    arguments += ["--out", str(tmp_path / "run")]
    out = start(2, arguments, tmp_path / "printed", train_and_count_threads).finished()
    printed = [line for line in out.splitlines() if line.startswith("threads")]
    counts = {"in": set[int](), "after": set[int]()}
    for line in printed:
        counts[line.split()[1]].add(int(line.split()[-1]))
    assert len(printed) == 4
    assert min(counts["in"]) > 0
    assert counts["after"] == {0}


def test_sigterm_stops_all_processes_after_the_same_step(corpus_file: Path, tmp_path: Path) -> None:
    long = [*SMALL, "--max-steps", "100000", "--eval-interval", "1000"]
    arguments = ["--corpus", str(corpus_file), *long, "--out", str(tmp_path / "run")]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2",
                "--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0"]  # fmt: skip
    process = subprocess.Popen(
        [*torchrun, "-m", "gptfast.train", *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "python")},
    )  # fmt: skip
    while not (tmp_path / "run" / "training" / "step-00000000").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    time.sleep(1)
    process.send_signal(signal.SIGTERM)  # torchrun hands it on
    out, _ = process.communicate(timeout=500)
    steps = [int(p.name[5:]) for p in (tmp_path / "run" / "training").glob("step-*")]
    assert max(steps) > 0
    assert "stopped and saved; to continue: torchrun --nproc-per-node=2 -m gptfast.train" in out
    assert out.rstrip().endswith("--resume")


def test_a_batch_that_cant_be_shared_is_refused(corpus_file: Path, tmp_path: Path) -> None:
    arguments = ["--corpus", str(corpus_file), *SMALL, "--batch-size", "3"]
    team = start(2, [*arguments, "--out", str(tmp_path / "run")], tmp_path / "printed")
    assert 2 in team.exit_codes()
    assert "batch_size 3 can't be divided among 2 processes" in team.printed()


def test_the_end_of_process_0_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def barrier() -> None:
        raise RuntimeError("Connection closed by peer")

    monkeypatch.setattr("torch.distributed.barrier", barrier)
    world = World(1, 2, torch.device("cpu"))
    with pytest.raises(RunError, match="process 0 ended before this one"), world.main_first():
        pass
