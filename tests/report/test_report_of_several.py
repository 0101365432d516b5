"""Reports that compare runs, the ladder's among them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from read_page import read_page
from reported_runs import Made

from gptfast.cli import cli
from gptfast.report.__main__ import main
from gptfast.train.history import read_run


def test_runs_of_two_tokenizers_are_compared_per_byte(made: Made, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    runs = [made.folder / "bpe", made.folder / "char"]
    assert cli.run(main, [*map(str, runs), "--out", str(out)]) == 0
    page, read = read_page(out), [read_run(run) for run in runs]
    by_step, by_second = page.charts
    for chart, x in ((by_step, "step"), (by_second, "seconds")):
        for run, series in zip(read, chart["series"], strict=True):
            assert series["name"] == run.name
            wanted = [
                [e[x], e["val_bits_per_byte"]]
                for e in run.evaluations
                if e["step"] > 0 or x != "step"
            ]
            assert [point[:2] for point in series["points"]] == wanted
    rows = {row[0]: row[1:] for row in page.cells}
    assert rows["tokenizer"] == ["bpe", "char"]
    assert rows["max_steps"] == ["40", "4"]
    assert "n_head" not in rows
    for run in read:
        assert rows[run.name][2] == f"{run.result['val_loss']:.4f}"
        assert run.record["command"] in page.text
    assert "Losses per token do not compare" in page.text
    assert "different texts" not in page.text


def test_a_ladder_stands_for_its_rungs(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ladder, out = tmp_path / "ladder", tmp_path / "report.html"
    rungs = [
        {"name": name, "idea": f"idea of {name}", "parameters": n}
        for name, n in (("low", 1234), ("high", 5678))
    ]
    for rung in rungs:
        shutil.copytree(made.folder / "char", ladder / str(rung["name"]))
    (ladder / "ladder.json").write_text(json.dumps(rungs))
    assert cli.run(main, [str(ladder), "--out", str(out)]) == 0
    page = read_page(out)
    rows = {row[0]: row[1:] for row in page.cells}
    assert rows["high"][0] == "5,678"
    assert page.facts["high"] == "idea of high"
    assert [one["name"] for one in page.charts[0]["series"]] == ["low", "high"]
    (ladder / "ladder.json").write_text("[{}]")
    capsys.readouterr()
    assert cli.run(main, [str(ladder), "--out", str(out), "--overwrite"]) == 2
    assert "ladder.json is damaged" in capsys.readouterr().err
