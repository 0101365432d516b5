"""`gptfast compare` on two runs that differ in a known way."""

from __future__ import annotations

import importlib
import io
import json
import re
import shutil
from pathlib import Path
from types import ModuleType

import pytest
import torch
from rich.console import Console

from gptfast.cli import cli
from gptfast.compare.__main__ import main as compare
from gptfast.compare.report import differences, side_by_side
from gptfast.errors import UserError
from gptfast.model.folder import load_model
from gptfast.sample.generate import write_sample
from gptfast.train.__main__ import main as train
from gptfast.train.history import read_run

ARGUMENTS = [
    "--tokenizer", "char", "--block-size", "16", "--n-head", "2", "--n-embd", "16",
    "--max-steps", "20", "--batch-size", "2", "--eval-windows", "2", "--eval-interval", "10",
    "--dtype", "float32",
]  # fmt: skip

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, nursery_text: str) -> Path:
    """A folder with a corpus and two runs on it. Tests work on a copy: see `runs`."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "nursery.txt").write_text(nursery_text, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GPTFAST_CACHE", str(folder / "cache"))
        for name, n_layer in (("shallow", "1"), ("deep", "3")):
            arguments = ["--corpus", str(folder / "nursery.txt"), "--out", str(folder / name)]
            assert train([*ARGUMENTS, *arguments, "--n-layer", n_layer]) == 0
    return folder


@pytest.fixture
def runs(trained: Path, tmp_path: Path) -> list[Path]:
    return [shutil.copytree(trained / name, tmp_path / name) for name in ("shallow", "deep")]


@pytest.fixture
def records(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """benchmarks/records.py."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("records")


def test_differences_and_samples(
    runs: list[Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    capsys.readouterr()
    monkeypatch.chdir(tmp_path)
    assert cli.run(compare, ["shallow", "deep"]) == 0
    text = capsys.readouterr().out
    rows = [line.split("│")[1:-1] for line in text.splitlines() if line.startswith("│")]
    cells = {row[0].strip(): [cell.strip() for cell in row[1:]] for row in rows if row[0].strip()}
    assert cells["n_layer"] == ["1", "3"]
    assert cells["steps taken"] == ["20", "20"]
    assert "n_head" not in cells  # the same in both
    results = [read_run(folder).result for folder in runs]
    shown = [float(cell) for cell in cells["val loss (nats/token)"]]
    assert shown == pytest.approx([r["val_loss"] for r in results if r], abs=1e-3)
    assert "texts (SHA-256)" not in cells  # the same, too
    # Below, the samples, in a column each.
    below = text[text.rindex("deep") :]
    cells_below = [[c.strip() for c in line.split("│")[1:-1]] for line in below.splitlines()]
    columns = zip(*(row for row in cells_below if len(row) == 2), strict=True)
    for folder, column in zip(runs, columns, strict=True):
        model, tokenizer = load_model(folder)
        sample = write_sample(model, tokenizer, 100, 1337)
        assert "".join("".join(column).split()) == "".join(sample.split())


def test_another_text_of_the_same_name_is_a_difference(runs: list[Path]) -> None:
    path = runs[0] / "run.json"
    record = json.loads(path.read_text())
    record["data"]["corpus_sha256"] = "0" * 64
    path.write_text(json.dumps(record))
    table = differences([read_run(folder) for folder in runs])
    assert "texts (SHA-256)" in list(table.columns[0].cells)


def test_curves_are_those_of_metrics_jsonl(runs: list[Path]) -> None:
    run = read_run(runs[0])
    assert [e["step"] for e in run.evaluations] == [0, 10, 20]
    assert [line["step"] for line in run.losses] == [10, 20]
    times = [e["seconds"] for e in run.evaluations]
    assert times == sorted(times)
    with (runs[0] / "metrics.jsonl").open("a") as file:
        file.write('{"step": 30, "lo')  # being written
    assert read_run(runs[0]).losses == run.losses
    assert [line["step"] for line in run.samples] == [0, 2, 10, 20]  # 10% of the steps, too
    with (runs[0] / "metrics.jsonl").open("a") as file:
        file.write('ss": 2\n')  # cut within the file
    with pytest.raises(UserError, match="is damaged in line 10"):
        read_run(runs[0])


def test_records_count_from_the_beginning(
    runs: list[Path], records: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "records.json"
    capsys.readouterr()
    assert cli.run(records.main, [*map(str, runs), "--json", str(out)]) == 0
    lines = capsys.readouterr().out.splitlines()
    for folder, record, line in zip(runs, json.loads(out.read_text()), lines, strict=True):
        metrics = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
        best = min((m for m in metrics if "val_loss" in m), key=lambda m: m["val_loss"])
        assert record["val_loss"] == best["val_loss"]
        assert record["seconds"] == best["seconds"] > 0
        assert f"val {best['val_loss']:.4f} after" in line


def test_records_of_runs_together(
    runs: list[Path],
    records: ModuleType,
    corpus_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "records.json"
    assert cli.run(records.main, [*map(str, runs), "--together", "--json", str(out)]) == 0
    printed = capsys.readouterr().out
    *alone, both = json.loads(out.read_text())
    assert f"together: val {both['val_loss']:.4f} after" in printed
    assert both["seconds"] > sum(record["evaluations"][-1]["seconds"] for record in alone)
    # The definition, in float64 and window by window.
    text = corpus_file.read_text()
    models, tokenizers = zip(*map(load_model, runs), strict=True)
    ids = torch.tensor(tokenizers[0].encode(text[int(0.9 * len(text)) :]))
    by_window = []
    for start in range(0, len(ids) - 1, 16):
        x, y = ids[start : start + 16][: len(ids) - 1 - start], ids[start + 1 : start + 17]
        with torch.no_grad():
            p = sum(model(x[None])[0].double().softmax(-1) for model in models) / 2
        by_window.append(p[torch.arange(len(y)), y].log().neg())
    whole = torch.cat(by_window).mean().item()
    assert both["val_loss_of_the_whole_split"] == pytest.approx(whole, abs=1e-5)
    # An evaluation takes two windows of the whole ones, spread evenly: the first and the last.
    full = [losses for losses in by_window if len(losses) == 16]
    expected = torch.stack([full[0], full[-1]]).mean().item()
    assert both["val_loss"] == pytest.approx(expected, abs=1e-5)
    assert expected != pytest.approx(whole, abs=1e-3)


def test_runs_of_different_splits_are_not_taken_together(
    runs: list[Path],
    records: ModuleType,
    corpus_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    other = tmp_path / "other"
    arguments = ["--corpus", str(corpus_file), "--out", str(other), "--val-fraction", "0.2"]
    assert train([*ARGUMENTS, *arguments]) == 0
    capsys.readouterr()
    assert cli.run(records.main, [str(runs[0]), str(other), "--together"]) == 2
    error = capsys.readouterr().err
    assert "can't be taken together" in error
    assert error.count("\n") == 1


def test_a_run_beside_itself_has_two_samples() -> None:
    console = Console(width=40, record=True, file=io.StringIO())
    console.print(side_by_side([("run", "left"), ("run", "right")]))
    assert re.search(r"left.*right", console.export_text())


def test_mistakes_are_one_line(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    for arguments, message in [
        ([str(runs[0])], "1 runs given: expected two or more folders"),
        ([str(runs[0]), str(tmp_path)], f"no run in {tmp_path}: expected a folder"),
    ]:
        assert cli.run(compare, arguments) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
