from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from pdfs import pdf

from gptfast.cli import cli
from gptfast.rag.__main__ import main


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    folder = tmp_path / "notes"
    folder.mkdir()
    (folder / "a.md").write_text("# Whales\n\nA whale is no fish.\n")
    (folder / "b.pdf").write_bytes(pdf(["Boats float."]))
    (folder / "c.pdf").write_bytes(pdf([None]))
    return folder


def test_index_and_eval(notes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    index = str(tmp_path / "index")
    command = ["index", str(notes), "--out", index, "--embeddings", "none"]
    assert cli.run(main, command) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "note: c.pdf: pages without text, which may be scans to be recognised (OCR) first: 1",
        "3 files read, 0 unchanged, 0 with the bytes of another, 0 removed; 0 chunks embedded",
        f"{index}: 3 files, 2 chunks",
    ]
    assert cli.run(main, command) == 0
    assert "0 files read, 3 unchanged" in capsys.readouterr().out
    questions, out = tmp_path / "q.jsonl", tmp_path / "out.json"
    questions.write_text(
        '{"question": "whale", "relevant": [{"file": "a.md", "quote": "no fish"}]}\n'
        '{"question": "float", "relevant": [{"file": "b.pdf", "page": 1}]}\n'
    )
    command = ["eval", str(questions), "--index", index, "--out", str(out)]
    assert cli.run(main, command) == 0
    shown = capsys.readouterr()
    assert "2 questions and 0 foreign ones, 2 chunks" in shown.out
    assert "note: without minilm" in shown.err
    found = json.loads(out.read_text())
    results = {result["retriever"]: result for result in found["results"]}
    assert results["fts5"]["hit_at_1"] == {"mean": 1.0, "low": 1.0, "high": 1.0}
    assert cli.run(main, [*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == found


def test_mistakes_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in (
        ["index", str(tmp_path / "none"), "--out", str(tmp_path / "index")],
        ["index", str(tmp_path), "--out", str(tmp_path / "index")],
        ["eval", str(tmp_path / "q.jsonl"), "--index", str(tmp_path)],
        ["index", "--out", "a"],
        ["other"],
    ):
        assert cli.run(main, command) == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_help_needs_no_pytorch() -> None:
    code = "import sys, gptfast.rag.__main__; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
