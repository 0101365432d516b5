"""`gptfast bench`: the report adds up, and the whole command runs where there is no GPU."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from nanogpt_stand_in import clone_in
from torch import nn

from gptfast.bench import report, training, training_report
from gptfast.bench.__main__ import main
from gptfast.bench.measure import Measurement, Timing, measure
from gptfast.bench.verify import Verdict
from gptfast.bench.workloads import OURS, Pass, Workload
from gptfast.cli import cli
from gptfast.data.batch import Batch
from gptfast.errors import UserError
from gptfast.train.objective import NextToken

TESTS = Path(__file__).parents[1]
PYTHON = TESTS.parent / "python"
FAST = """\
import os
os.environ["TRITON_INTERPRET"] = "1"
from interpreter import patch_triton_language_once
patch_triton_language_once()
del os.environ["TRITON_INTERPRET"]
"""
OPS = {"attention", "decode_attention", "layer_norm", "linear_cross_entropy", "rms_norm", "rotary"}


def workload(**fields: object) -> Workload:
    arguments = {
        "op": "layer_norm",
        "title": "8 x 8",
        "passes": Pass.BOTH,
        "make_inputs": lambda: [torch.ones(3, requires_grad=True)],
        "implementations": {},
        "work": 1e9,
        "unit": "GB/s",
        **fields,
    }
    return Workload(**arguments)  # type: ignore[arg-type]


def measurement(name: str, speed: float, peak_bytes: int = 10**6) -> Measurement:
    timing = Timing(1000 / speed, 800 / speed, 1250 / speed, speed, peak_bytes, 70.0)
    return Measurement("layer_norm", "8 x 8", "forward + backward", name, "GB/s", timing)


def test_targets_are_judged_by_the_medians() -> None:
    work = workload(
        targets={"PyTorch": 1.0, "copy": 0.85, "cuDNN": 0.9}, memory_targets={"PyTorch": 0.2}
    )
    failed = Measurement("layer_norm", "8 x 8", "", "cuDNN", "GB/s", reason="RuntimeError: no")
    rows = [measurement(OURS, 900, 10), measurement("PyTorch", 1000, 100), failed]
    assert report.target_lines(work, rows, copy=1000) == [
        "1.00 x PyTorch: 0.90 **missed**",
        "0.85 x copy: 0.90 met",
        "0.90 x cuDNN: not measured",
        "0.20 x the memory of PyTorch: 0.100 met",
    ]


def test_the_report_shows_medians_spread_and_reasons(tmp_path: Path) -> None:
    work = workload(targets={"PyTorch": 1.0})
    failed = Measurement("layer_norm", "8 x 8", "", "cuDNN", "GB/s", reason="RuntimeError: no")
    measured = [(work, [measurement(OURS, 2000), measurement("PyTorch", 1000), failed])]
    verdicts = [
        Verdict("layer_norm", "8 x 8", "float16", 0.5, True, {}),
        Verdict("layer_norm", "9 x 9", "float16", 3.0, False, {"result 0": (3e-3, 1e-3)}),
    ]
    about = {"date": "2026-11-25", "torch": "2.15"}
    text = report.markdown(about, verdicts, measured)
    assert (
        "| 8 x 8 | 2,000 (1,600 to 2,500), 1, 70 | 1,000 (800 to 1,250), 1, 70 | [1] "
        "| 1.00 x PyTorch: 2.00 met |" in text
    )
    assert "[1] RuntimeError: no" in text
    assert "1 of 2 checks passed" in text
    assert "| layer_norm | float16 | 2 | 1 | 3.00 | 9 x 9 |" in text
    folder = tmp_path / "out"
    folder.mkdir()
    paths = report.save(folder, about, verdicts, measured)
    paths += report.save_plot(folder, about, measured)
    assert [path.name for path in paths] == ["gpu.json", "gpu.md", "gpu.png"]
    assert json.loads(paths[0].read_bytes())["measurements"][0]["timing"]["speed"] == 2000
    assert paths[2].read_bytes().startswith(b"\x89PNG")


class NoGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.exp()

    @staticmethod
    def backward(ctx: Any, *douts: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(douts[0])


def test_an_implementation_that_differs_or_fails_gets_a_reason_and_no_time() -> None:
    def fails(x: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("no kernel\nand a long explanation")

    def last_row_differs(x: torch.Tensor) -> torch.Tensor:
        return x.exp() * torch.tensor([[1.0], [1.0], [1.05]])

    def reasons(passes: Pass, **peers: Any) -> list[str | None]:
        # The last row is small beside the others, and weighs as much.
        x = torch.tensor([[3.0], [3.0], [2.0]]).expand(3, 4).log().requires_grad_()
        implementations = {OURS: torch.exp, "PyTorch": torch.exp, **peers}
        work = workload(passes=passes, make_inputs=lambda: [x], implementations=implementations)
        work.implementations.update(peers)
        return [row.reason for row in measure(work, timed=False)]

    differs = "ArithmeticError: tensor 0: a row differs from that of PyTorch by 0.05 of its norm"
    found = reasons(Pass.BOTH, row=last_row_differs, fails=fails, zero=NoGradient.apply)
    wrong_gradient = differs.replace("tensor 0", "tensor 1").replace("0.05", "1")
    assert found == [None, None, differs, "RuntimeError: no kernel", wrong_gradient]
    assert reasons(Pass.BACKWARD, zero=NoGradient.apply)[2] == wrong_gradient
    assert reasons(Pass.FORWARD, zero=NoGradient.apply)[2] is None
    # How an output lies in memory is not what it is.
    transposed = reasons(Pass.BOTH, transposed=lambda x: x.exp().mT.contiguous().mT)
    assert transposed == [None, None, None]
    # If ours is the wrong one, the reason is ours.
    assert reasons(Pass.BOTH, **{OURS: last_row_differs}) == [differs, None]


def run(
    *arguments: str, hidden: tuple[str, ...] = (), fast: bool = False
) -> subprocess.CompletedProcess[str]:
    """Run the command from the checkout, on a machine that lacks the `hidden` modules.

    fast: import Triton before, to make its interpreter faster. The command does the same without.
    """
    code = FAST if fast else ""
    code += (
        f"import sys\nfor name in {hidden!r}: sys.modules[name] = None\n"
        f"sys.argv = ['gptfast.bench', *{arguments!r}]\n"
        "import runpy; runpy.run_module('gptfast.bench', run_name='__main__', alter_sys=True)"
    )
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**environment, "PYTHONPATH": f"{PYTHON}{os.pathsep}{TESTS}"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_rehearsal_runs_everything_with_pytorch_and_triton_alone(tmp_path: Path) -> None:
    pytest.importorskip("triton")
    missing = ("gptfast._rust", "tyro", "rich", "platformdirs", "safetensors", "matplotlib")
    done = run("gpu", "--out", str(tmp_path / "out"), "--rehearse", hidden=missing, fast=True)
    assert done.returncode == 0, done.stdout + done.stderr
    content = json.loads((tmp_path / "out" / "gpu.json").read_bytes())
    assert {v["op"] for v in content["verification"]} == OPS
    assert all(v["is_right"] for v in content["verification"])
    ours = [m for m in content["measurements"] if m["implementation"] in (OURS, "copy")]
    assert {m["op"] for m in ours} == OPS | {"copy"}
    assert all(m["timing"] is None and m["reason"] is None for m in ours)
    text = (tmp_path / "out" / "gpu.md").read_text()
    assert "| ran | " in text
    assert "not measured" in text


def test_the_rehearsal_of_the_rules_writes_none(tmp_path: Path) -> None:
    pytest.importorskip("triton")
    done = run("ops", "--write-rules", "--rehearse", fast=True)
    assert done.returncode == 0, done.stdout + done.stderr
    for op in OPS - {"rotary"}:
        assert f"\n{op}, inference, float32" in done.stdout
    assert "written" not in done.stdout
    assert done.stderr == ""


def test_the_rehearsal_of_training_needs_pytorch_and_triton_alone(tmp_path: Path) -> None:
    pytest.importorskip("triton")
    (tmp_path / "text.txt").write_text("to be or not to be, that is the question\n" * 20)
    nanogpt = clone_in(tmp_path)
    missing = ("gptfast._rust", "tyro", "rich", "platformdirs", "safetensors", "matplotlib")
    done = run(
        "train", "--out", str(tmp_path / "out"), "--data", str(tmp_path / "text.txt"),
        "--nanogpt", str(nanogpt), "--rehearse", hidden=missing,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    content = json.loads((tmp_path / "out" / "train.json").read_bytes())
    cases = {(s["implementation"], s["kernels"], s["compiled"]) for s in content["speeds"]}
    kernels = ("auto", "torch", "triton")
    ours = {("gptfast", name, compiled) for name in kernels for compiled in (True, False)}
    assert cases == ours | {("nanoGPT", "torch", True), ("nanoGPT", "torch", False)}
    assert all(s["reason"] is None for s in content["speeds"])
    first, *others = [s["loss"] for s in content["speeds"]]
    assert others == pytest.approx([first] * 7, abs=1e-3)
    curve = content["shakespeare"]
    assert curve["steps"] == [0, 2, 4]
    assert curve["val_losses"][2] < curve["val_losses"][0]
    text = (tmp_path / "out" / "train.md").read_text()
    assert "To reach 1.25 x nanoGPT compiled: not measured." in text
    assert "Triton's kernels in its interpreter, never compiled" in text
    assert "lowest val loss" in text


def test_what_fails_or_comes_too_late_is_said_and_the_rest_is_kept(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("to be or not to be\n" * 20)
    (tmp_path / "nanogpt").mkdir()
    (tmp_path / "nanogpt" / "model.py").write_text("raise RuntimeError('no model today')")
    nanogpt = tmp_path / "nanogpt"
    speed = training.measure_speed("nanoGPT", "torch", True, nanogpt, rehearse=True, expected=None)
    assert speed.reason == "RuntimeError: no model today"
    late = training.run(tmp_path / "out", tmp_path / "text.txt", None, -1.0, rehearse=True)
    assert len(late.not_run) == 7
    assert "Not run, time limit reached: nanogpt-shakespeare" in late.markdown()


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "has 0 characters: expected at least 170,"), (b"\xff" * 400, "is not UTF-8 .* a text")],
)
def test_a_text_that_cant_be_trained_on_is_refused_at_once(
    tmp_path: Path, content: bytes, message: str
) -> None:
    (tmp_path / "text.txt").write_bytes(content)
    with pytest.raises(UserError, match=message):
        training.run(tmp_path / "out", tmp_path / "text.txt", None, 100.0, rehearse=True)
    assert not (tmp_path / "out").exists()


class NaNLoss(NextToken):
    def loss(self, engine: nn.Module, batch: Batch) -> torch.Tensor:
        return super().loss(engine, batch) * math.nan


@pytest.mark.parametrize("fault", ["nan", "gradient"])
def test_what_trains_to_other_losses_has_no_speed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    """Ours, with a loss that is NaN or an update that is missing, against a nanoGPT."""
    (tmp_path / "text.txt").write_text("to be or not to be\n" * 20)
    nanogpt = clone_in(tmp_path)
    build = training._build

    def faulty(implementation: str, *arguments: Any) -> Any:
        model, objective = build(implementation, *arguments)
        if implementation == "nanoGPT":
            return model, objective
        if fault == "gradient":
            model.h[0].requires_grad_(requires_grad=False)
            return model, objective
        return model, NaNLoss()

    monkeypatch.setattr(training, "_build", faulty)
    monkeypatch.setattr(training, "LEARNING_RATE", 0.1)
    monkeypatch.setattr(nn.Module, "compile", lambda *_, **__: None)  # changes no loss
    report = training.run(tmp_path / "out", tmp_path / "text.txt", nanogpt, 100.0, rehearse=True)
    reasons = {(s.implementation, s.kernels): s.reason for s in report.speeds if s.compiled}
    assert reasons["nanoGPT", "torch"] is None
    expected = r"the loss after 2 steps is (nan|\d\.\d{4}), expected that of the first that ran, .*"
    assert re.fullmatch(expected, reasons["gptfast", "torch"])


def test_the_target_is_judged_by_the_best_compiled_of_each() -> None:
    speeds = [
        training_report.Speed("nanoGPT", "torch", True, 9.5, 1000.0, 10**9),
        training_report.Speed("nanoGPT", "torch", False, 9.5, 5000.0, 10**9),
        training_report.Speed("gptfast", "torch", True, 9.5, 1100.0, 10**9),
        training_report.Speed("gptfast", "triton", True, 9.5, 1300.0, 10**9),
    ]
    text = training_report.Report({"gpu": "X"}, speeds).markdown()
    assert "To reach 1.25 x nanoGPT compiled: 1.30 met." in text
    assert "| gptfast | triton | yes | 1,300 | 1.00 |  |" in text


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_it_says_so_in_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    train = ["train", "--out", str(tmp_path), "--data", "x"]
    for arguments in (["gpu", "--out", str(tmp_path)], ["ops"], train):
        assert cli.run(main, arguments) == 2
        assert capfd.readouterr().err == (
            "error: PyTorch sees no CUDA device here: run this on a machine with one, or add "
            "--rehearse\n"
        )
