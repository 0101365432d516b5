"""`gptfast compare` on two runs that differ in a known way."""

from __future__ import annotations

from pathlib import Path

import pytest

from gptfast import cli
from gptfast.compare.__main__ import main as compare
from gptfast.compare.report import read_run
from gptfast.train.__main__ import main as train

ARGUMENTS = [
    "--tokenizer", "char", "--block-size", "16", "--n-head", "2", "--n-embd", "16",
    "--max-steps", "20", "--batch-size", "2", "--eval-windows", "2", "--eval-interval", "10",
]  # fmt: skip


@pytest.fixture
def runs(corpus_file: Path, tmp_path: Path) -> list[Path]:
    folders = [tmp_path / "shallow", tmp_path / "deep"]
    for folder, n_layer in zip(folders, ("1", "3"), strict=True):
        arguments = ["--corpus", str(corpus_file), "--out", str(folder), "--n-layer", n_layer]
        assert train([*ARGUMENTS, *arguments]) == 0
    return folders


def test_differences_curves_and_samples(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    out = tmp_path / "curves.png"
    assert cli.run(compare, [*map(str, runs), "--out", str(out)]) == 0
    text = capsys.readouterr().out
    rows = [line.split("│")[1:-1] for line in text.splitlines() if line.startswith("│")]
    cells = {row[0].strip(): [cell.strip() for cell in row[1:]] for row in rows if row[0].strip()}
    assert cells["n_layer"] == ["1", "3"]
    assert cells["steps taken"] == ["20", "20"]
    assert "n_head" not in cells  # the same in both
    results = [read_run(folder).result for folder in runs]
    shown = [float(cell) for cell in cells["val loss (nats/token)"]]
    assert shown == pytest.approx([r["val_loss"] for r in results if r], abs=1e-3)
    for folder in runs:
        assert f"--- {folder} ---" in text
    assert out.read_bytes().startswith(b"\x89PNG")


def test_curves_are_those_of_metrics_jsonl(runs: list[Path]) -> None:
    run = read_run(runs[0])
    assert [look["step"] for look in run.looks] == [0, 10, 20]
    assert [line["step"] for line in run.losses] == [10, 20]
    times = [look["seconds"] for look in run.looks]
    assert times == sorted(times)
    with (runs[0] / "metrics.jsonl").open("a") as file:
        file.write('{"step": 30, "lo')  # being written
    assert read_run(runs[0]).losses == run.losses


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
