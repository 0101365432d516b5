"""A small run with samples, made once. Tests change copies."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from made_runs import Made

from gptfast.cli import cli
from gptfast.train.__main__ import main as train

FLAGS = [
    "--vocab-size", "300", "--block-size", "32", "--n-layer", "2", "--n-head", "2",
    "--n-embd", "32",
    "--max-steps", "40", "--batch-size", "4", "--eval-windows", "4", "--eval-interval", "10",
    "--dtype", "float32", "--device", "cpu",
]  # fmt: skip


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory, nursery_text: str) -> Made:
    made = Made(tmp_path_factory.mktemp("reported_runs"))
    made.corpus.write_text(nursery_text, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GPTFAST_CACHE", str(made.folder / "cache"))
        arguments = [*FLAGS, "--corpus", str(made.corpus), "--out"]
        assert cli.run(train, [*arguments, str(made.folder / "bpe")]) == 0
        further = ["--tokenizer", "char", "--max-steps", "4"]
        assert cli.run(train, [*arguments, str(made.folder / "char"), *further]) == 0
    return made


@pytest.fixture
def run(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the run 'bpe'. Its prepared corpus is in the cache."""
    monkeypatch.setenv("GPTFAST_CACHE", str(made.folder / "cache"))
    return shutil.copytree(made.folder / "bpe", tmp_path / "bpe")
