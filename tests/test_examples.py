"""The notebooks run from top to bottom, and are committed with their outputs."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "examples").glob("*.ipynb"))
SHOWS = {
    "01_climb_the_ladder": ["LLM(bigram,", "LLM(gpt,", "--- multihead ---"],
    "02_train_on_your_text": ["step 0: val loss", "bits per byte: Bob hears", "model.safetensors"],
    "03_add_a_layer": ["MaxoutGPT, ", "val loss"],
    "04_teach_your_gpt_to_answer": [
        "made runs/chat-base",
        "<|assistant|>",
        "adapter_model.safetensors: ",
        "exact match, greedy",
        "held-out prompts",
    ],
    "05_look_inside_your_gpt": [
        "ok     weights beyond the mask are exactly 0",
        "WRONG | changing a token leaves all logits before it, as this machine computes it",
        "copied: afecafe",
        "val text ",
    ],
    "06_ask_your_notes": [
        "3 files read",
        "0 files read, 3 unchanged",
        "Minka eats twice a day",
        '"answered": true',
        "is not near enough",
        "exit code 3",
        "7 questions and 3 foreign ones",
    ],
}


def printed(notebook: Any) -> str:
    """Everything that the code cells wrote to the standard output."""
    outputs = [o for cell in notebook["cells"] for o in cell.get("outputs", [])]
    return "".join("".join(o["text"]) for o in outputs if o["output_type"] == "stream")


def test_every_notebook_is_tested() -> None:
    assert [path.stem for path in NOTEBOOKS] == list(SHOWS)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_is_short_and_committed_with_its_outputs(path: Path) -> None:
    notebook = json.loads(path.read_text(encoding="utf-8"))
    first, *cells = notebook["cells"]
    assert first["cell_type"] == "markdown"
    assert "make build" in "".join(first["source"])
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    lines = "\n".join("".join(cell["source"]) for cell in code).splitlines()
    assert len([line for line in lines if line.strip()]) <= 60
    outputs = [output for cell in code for output in cell["outputs"]]
    assert {o["output_type"] for o in outputs} <= {"stream", "display_data", "execute_result"}
    assert {o.get("name", "stdout") for o in outputs} == {"stdout"}  # no warnings
    for expected in SHOWS[path.stem]:
        assert expected in printed(notebook)


@pytest.fixture(scope="module")
def kernel(nursery_text: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """One for all notebooks, as importing PyTorch takes seconds."""
    manager = pytest.importorskip("jupyter_client.manager")
    corpus = tmp_path_factory.mktemp("corpus") / "nursery.txt"
    corpus.write_text(nursery_text, encoding="utf-8")
    settings = {"GPTFAST_EXAMPLE_STEPS": "4", "GPTFAST_EXAMPLE_CORPUS": str(corpus)}
    settings["GPTFAST_CACHE"] = str(corpus.parent / "cache")
    started = manager.KernelManager()
    started.start_kernel(env={**os.environ, **settings})
    yield started
    started.shutdown_kernel()
    started.cleanup_resources()


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs_from_top_to_bottom(path: Path, kernel: Any, tmp_path: Path) -> None:
    """With few steps, and a text that needs no network."""
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = []
    # As in a new kernel: in a folder of its own, without the names of another notebook.
    fresh = nbformat.v4.new_code_cell(f"%reset -f\n%cd -q {tmp_path}")
    notebook.cells.insert(0, fresh)
    client = nbclient.NotebookClient(notebook, km=kernel, timeout=600)
    client.execute()
    client.kc.stop_channels()
    for expected in SHOWS[path.stem]:
        assert expected in printed(notebook)
