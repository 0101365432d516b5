"""A session on a GPU, with small stand-ins for its checks and workloads."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from parts import HANGS, mark

from gptfast.bench import report, rules, session
from gptfast.bench.cases import Setting
from gptfast.bench.measure import Measurement, Timing, _time
from gptfast.bench.session import Session, run_gpu, run_ops, run_parts
from gptfast.bench.verify import Check
from gptfast.bench.workloads import Pass, Workload, workloads
from gptfast.errors import RunError
from gptfast.ops.rules import Work


def check(op: str, ours: Callable[..., Any] = F.gelu) -> Check:
    return Check(op, "one", ((5, 3),), ours, F.gelu, F.gelu)


def workload(op: str, ours: Callable[..., Any] = torch.exp, **fields: Any) -> Workload:
    def make_inputs() -> list[torch.Tensor]:
        return [torch.ones(4, requires_grad=True)]

    arguments = {"make_inputs": make_inputs, **fields}
    implementations = {"gptfast": ours, "PyTorch": torch.exp}
    return Workload(
        op, "8", Pass.BOTH, implementations=implementations, work=1e9, unit="GB/s", **arguments
    )


def raises(x: torch.Tensor) -> torch.Tensor:
    raise RuntimeError("an illegal memory access was encountered")


def stand_in(monkeypatch: pytest.MonkeyPatch, checks: list[Check], work: list[Workload]) -> None:
    monkeypatch.setattr(session, "checks", lambda device, tiny: checks)
    monkeypatch.setattr(session, "workloads", lambda setting: work)


def rehearsal(**fields: Any) -> Session:
    return Session(**{"rehearse": True, "only": [], "time_limit": 60.0, **fields})


def content(out: Path) -> Any:
    return json.loads((out / "gpu.json").read_bytes())


def measured_ops(out: Path) -> list[str]:
    return list(dict.fromkeys(m["op"] for m in content(out)["measurements"]))


@pytest.mark.parametrize("wrong", [raises, lambda x: F.gelu(x) * 1.1], ids=["raises", "differs"])
def test_only_the_op_whose_check_is_red_is_not_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: Callable[..., Any]
) -> None:
    stand_in(
        monkeypatch,
        [check("a"), check("b", wrong), check("c")],
        [workload("a"), workload("b"), workload("c")],
    )
    with pytest.raises(RunError, match="2 of 6 checks failed, first: b, one, float32"):
        run_gpu(rehearsal(), tmp_path)
    assert [v["is_right"] for v in content(tmp_path)["verification"]] == [True] * 2 + [
        False
    ] * 2 + [True] * 2
    assert measured_ops(tmp_path) == ["a", "c"]
    assert content(tmp_path)["machine"]["not timed, as a check failed"] == "b"


def test_the_report_is_written_during_verification(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(x: torch.Tensor) -> torch.Tensor:
        raise KeyboardInterrupt

    stand_in(monkeypatch, [check("a"), check("b", interrupted)], [])
    with pytest.raises(KeyboardInterrupt):
        run_gpu(rehearsal(), tmp_path)
    assert [v["op"] for v in content(tmp_path)["verification"]] == ["a", "a"]


def test_inputs_that_do_not_fit_end_one_workload(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make_inputs() -> list[torch.Tensor]:
        raise torch.OutOfMemoryError("CUDA out of memory")

    stand_in(monkeypatch, [], [workload("a", make_inputs=make_inputs), workload("b")])
    with pytest.raises(RunError, match="1 of ours were not measured, first: a, 8, forward"):
        run_gpu(rehearsal(), tmp_path)
    assert [m["reason"] is None for m in content(tmp_path)["measurements"]] == [
        False, False, True, True,
    ]  # fmt: skip


def test_after_an_error_that_stays_it_saves_and_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(monkeypatch, [], [workload("a", raises), workload("b")])
    monkeypatch.setattr(session, "gpu_failure", lambda: "AcceleratorError: illegal access")
    with pytest.raises(RunError, match="the GPU failed"):
        run_gpu(rehearsal(), tmp_path)
    assert measured_ops(tmp_path) == ["a"]
    assert "illegal access" in content(tmp_path)["machine"]["stopped, as the GPU failed"]


def test_nothing_begins_after_the_time_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(x: torch.Tensor) -> torch.Tensor:
        now[0] += 40
        return x.exp()

    now = [0.0]
    monkeypatch.setattr(session.time, "monotonic", lambda: now[0])
    stand_in(monkeypatch, [check("a")], [workload("a", slow), workload("b"), workload("c")])
    run_gpu(rehearsal(started=0.0), tmp_path)
    assert measured_ops(tmp_path) == ["a"]
    not_run = "b, 8, forward + backward; c, 8, forward + backward"
    assert content(tmp_path)["machine"]["not run, time limit reached"] == not_run
    late = rehearsal(started=now[0], time_limit=-1.0)
    run_gpu(late, tmp_path)
    assert content(tmp_path)["verification"] == []
    assert late.not_run[0] == "check a, one"


def test_only_what_was_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(
        monkeypatch, [check("a"), check("b")], [workload("copy"), workload("a"), workload("b")]
    )
    run_gpu(rehearsal(only=["b"]), tmp_path)
    assert {v["op"] for v in content(tmp_path)["verification"]} == {"b"}
    assert measured_ops(tmp_path) == ["copy", "b"]


def test_rules_are_written_after_each_case_and_never_name_what_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one that differs is ours: PyTorch's gets no blame, and the rule."""
    stand_in(monkeypatch, [], [])
    ran = Session(rehearse=False, only=[], time_limit=60.0)
    monkeypatch.setattr(Session, "setting", Setting("cpu", torch.float32, tiny=True))
    monkeypatch.setattr(session, "run_parts", lambda *_: None)
    monkeypatch.setattr(session, "user_file", lambda gpu: tmp_path / "rules" / "x.json")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "X")
    graphs = []

    def timed(call: Callable[[], object], work: Workload, as_graph: bool) -> Timing:
        graphs.append((work.op, as_graph))
        return Timing(1, 1, 1, 1, 1, 1)

    monkeypatch.setattr("gptfast.bench.measure._time", timed)
    monkeypatch.setattr("gptfast.bench.measure._own_stream", contextlib.nullcontext)

    def case(op: str, ours: Callable[..., Any], passes: Pass) -> tuple[Work, Workload]:
        work = replace(workload(op), passes=passes)
        work.implementations.clear()
        work.implementations.update(triton=ours, torch=torch.exp)
        return Work(op, "training", 9), work

    def cases(setting: Setting) -> Any:
        yield case("a", torch.exp, Pass.BOTH)
        yield case("b", lambda x: x.exp() * 3, Pass.BOTH)
        yield case("c", torch.exp, Pass.FORWARD)
        written = json.loads((tmp_path / "rules" / "x.json").read_bytes())["rules"]
        assert list(written) == ["a, training", "b, training", "c, training"]
        assert written["b, training"] == [[None, "torch"]]

    monkeypatch.setattr(rules, "cases", cases)
    with pytest.raises(RunError, match="1 of ours were not measured, first: b, training"):
        run_ops(ran, write_rules=True)
    assert (tmp_path / "rules" / "x.json").exists()
    # In training the GPU's time counts, in inference the call's.
    assert set(graphs) == {("a", True), ("b", True), ("c", False)}


def test_rules_of_some_ops_leave_those_of_the_others(tmp_path: Path) -> None:
    path, machine = tmp_path / "x.json", {"torch": "2.15.0", "triton": "3.9.0"}
    old = [rules.Timed("a, training", 8, {"triton": 1.0}), rules.Timed("b, training", 8, {})]
    rules.write(path, machine, old)
    assert rules.of_others(path, machine, ["b"]) == old[:1]
    assert rules.of_others(path, machine, []) == []  # all are measured anew
    assert rules.of_others(path, {**machine, "torch": "2.16.0"}, ["b"]) == []
    assert rules.of_others(path, {**machine, "commit": "abc"}, ["b"]) == []
    assert rules.of_others(tmp_path / "none.json", machine, ["b"]) == []
    path.write_text("no JSON")
    assert rules.of_others(path, machine, ["b"]) == []


def test_parts_run_in_processes_and_one_that_hangs_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock passes the limit when the two others have ended."""
    before = multiprocessing.active_children()
    done = {"0 of 3", "1 of 3"}

    def monotonic() -> float:
        return 500.0 if {path.name for path in tmp_path.iterdir()} == done else 0.0

    started = time.monotonic()
    monkeypatch.setattr(session, "time", SimpleNamespace(monotonic=monotonic))
    run_parts(partial(mark, tmp_path), 3, time_limit=400.0)
    assert time.monotonic() - started < HANGS
    assert multiprocessing.active_children() == before
    assert {path.name for path in tmp_path.iterdir()} == done


@pytest.mark.parametrize("as_graph", [True, False])
def test_the_median_is_the_time_and_memory_counts_beyond_the_inputs(
    monkeypatch: pytest.MonkeyPatch, as_graph: bool
) -> None:
    testing = pytest.importorskip("triton.testing")

    def call() -> None:
        clock[0] += 0.003

    def do_bench(timed: Callable[[], object], quantiles: tuple[float, ...]) -> list[float]:
        assert timed == ("the graph of", call) if as_graph else timed is call
        return [{0.2: 1.0, 0.5: 2.0, 0.8: 4.0}[q] for q in quantiles]

    monkeypatch.setattr(testing, "do_bench", do_bench)
    clock = [0.0]
    monkeypatch.setattr("gptfast.bench.measure.recorded", lambda call: ("the graph of", call))
    monkeypatch.setattr("gptfast.bench.measure.time.perf_counter", lambda: clock[0])
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: None)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: 100)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 350)
    # 1e9 bytes in 2 ms are 500 GB/s.
    timing = _time(call, workload("a"), as_graph)
    assert timing == Timing(2.0, 1.0, 4.0, 500.0, 250, pytest.approx(3000.0))


def test_what_has_which_target() -> None:
    """And that a workload allocates nothing before it runs: all of them fit on any machine."""
    found: dict[tuple[str, str, str], dict[str, float]] = {}
    for w in workloads(Setting("cuda", torch.bfloat16, tiny=False)):
        found[w.op, w.title, w.passes.value] = {**w.targets, **w.memory_targets}
    both, forward, backward = "forward + backward", "forward", "backward"
    peers = {"FlashAttention-2": 1.0, "cuDNN": 1.0}
    assert found.pop(("copy", "1 GiB", forward)) == {}
    assert found.pop(("attention", "causal D64 B16 H12 T1024", both)) == peers
    for T in (2048, 4096, 8192, 16_384):
        for D in (64, 128):
            title = f"causal D{D} B{16_384 // T} H{2048 // D} T{T}"
            targets = {"FlashAttention-2": 1.0, "cuDNN": 0.9}
            assert found.pop(("attention", title, forward)) == targets
            targets = {"FlashAttention-2": 1.0, "cuDNN": 0.8} if D == 64 else {"cuDNN": 0.8}
            assert found.pop(("attention", title, backward)) == targets
    eager = {"PyTorch": 1.0, "PyTorch, compiled": 1.0}
    for M, C, share in (
        (16_384, 768, {}), (4096, 768, {}), (699_050, 768, {"copy": 0.85}),
        (524_288, 1024, {"copy": 0.85}), (262_144, 2048, {"copy": 0.85}),
        (131_072, 4096, {"copy": 0.85}), (65_536, 8192, {"copy": 0.85}),
        (32_768, 16_384, {"copy": 0.85}),
    ):  # fmt: skip
        for op in ("layer_norm", "rms_norm"):
            assert found.pop((op, f"{M} x {C}", both)) == {**eager, **share}
    loss = ("linear_cross_entropy", "16384 tokens x 50304, C768", both)
    assert found.pop(loss) == {"plain, compiled": 1 / 1.1, "plain": 1 / 5}
    for heads in ("D64 B{} H12 G12", "D128 B{} H32 G8"):
        for B in (1, 8, 64):
            title = f"{heads.format(B)}, 8192 keys"
            assert found.pop(("decode_attention", title, forward)) == {"SDPA": 1.0}
    rotary = {"plain": 1.0, "plain, compiled": 1.0}
    assert found.pop(("rotary", "D128 B8 H32 G8 T2048", both)) == rotary
    assert found == {}


def test_each_op_is_measured_once_before_any_is_a_second_time() -> None:
    ops = [w.op for w in workloads(Setting("cuda", torch.bfloat16, tiny=False))]
    first = ["copy", "attention", "layer_norm", "linear_cross_entropy", "decode_attention"]
    assert ops[:6] == [*first, "rotary"]


def test_targets_are_counted_and_a_failing_plot_hides_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = ["1.00 x a: 1.2 met", "1.00 x b: 0.9 **missed**", "1.00 x c: not measured"]
    assert report.summary(lines) == "1 of 3 targets met, 1 missed, 1 not measured"

    def no_plot(*_: object) -> None:
        raise ValueError("no font")

    stand_in(monkeypatch, [check("a")], [workload("a", targets={"PyTorch": 1.0})])
    monkeypatch.setattr(report, "save_plot", no_plot)
    with pytest.raises(ValueError, match="no font"):
        run_gpu(rehearsal(), tmp_path)
    assert "0 of 1 targets met, 0 missed, 1 not measured\n" in capsys.readouterr().out


def test_what_is_no_number_is_null_in_the_report(tmp_path: Path) -> None:
    timing = Timing(1.0, 1.0, 1.0, float("nan"), 5, 1.0)
    rows = [Measurement("a", "8", "", "gptfast", "GB/s", timing)]
    report.save(tmp_path, {}, [], [(workload("a"), rows)])
    assert content(tmp_path)["measurements"][0]["timing"]["speed"] is None
    assert "NaN" not in (tmp_path / "gpu.json").read_text()
