"""The report of a vision transformer's run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from read_page import read_page

from gptfast.cli import cli
from gptfast.report.__main__ import main as report
from gptfast.train.__main__ import main as train

SMALL = [
    "--preset", "vit-digits", "--n-layer", "1", "--n-head", "2", "--n-embd", "16",
    "--max-steps", "4", "--eval-interval", "2", "--device", "cpu", "--dtype", "float32",
]  # fmt: skip


def test_a_report_speaks_of_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    vit = tmp_path / "vit"
    assert train([*SMALL, "--out", str(vit)]) == 0
    capsys.readouterr()
    assert cli.run(report, [str(vit), "--out", str(tmp_path / "vit.html")]) == 0
    assert "note:" not in capsys.readouterr().err
    page = read_page(tmp_path / "vit.html")
    result = json.loads((vit / "run.json").read_text())["result"]
    for expected in (
        "A vision transformer of", "nats per image", "val images",
        f"{result['measured']['test_accuracy']:.1%}", "patches of 4 x 4 pixels", "64 images",
    ):  # fmt: skip
        assert expected in page.text, expected
    for wrong in ("tokenizer", "What it wrote", "nats per token", "val text", "imitates"):
        assert wrong not in page.text, wrong
