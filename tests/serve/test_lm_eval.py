"""lm-evaluation-harness over HTTP (`local-completions`) says what it says of the folder (`hf`)."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from served import logprobs
from servers import running

from gptfast.model import GPT
from gptfast.model.folder import save_description, save_weights
from gptfast.tokenizer import BPETokenizer

pytest.importorskip("lm_eval")
pytestmark = [pytest.mark.slow, pytest.mark.integration]

CHOICES = """\
task: nouns
dataset_path: json
dataset_kwargs:
  data_files: {folder}/nouns.jsonl
test_split: train
output_type: multiple_choice
doc_to_text: "{{{{text}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{answer}}}}"
metric_list:
  - metric: acc
"""
TEXTS = """\
task: texts
dataset_path: json
dataset_kwargs:
  data_files: {folder}/texts.jsonl
test_split: train
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{{{text}}}}"
metric_list:
  - metric: bits_per_byte
"""
PROGRAM = """\
import json, sys
from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager

models, folder = json.loads(sys.argv[1]), sys.argv[2]
tasks = TaskManager(include_path=folder, include_defaults=False)
results = {}
for model, arguments in models.items():
    found = simple_evaluate(
        model=model, model_args=arguments, tasks=["nouns", "texts"], bootstrap_iters=0,
        task_manager=tasks,
    )
    results[model] = found["results"]
print(json.dumps(results))
"""


def evaluate(models: dict[str, Any], tasks: Path) -> dict[str, Any]:
    """Of each model, with its arguments. In a process of its own: the harness warns of much."""
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(tasks / "hf")}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(models), str(tasks)],
        env={**os.environ, **offline, "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]


def by_hand(
    model: GPT, tokenizer: BPETokenizer, questions: list[Any], texts: list[str], window: int
) -> tuple[float, float]:
    """The accuracy, and bits per byte in windows of which the last ends with the text."""

    def logprob(before: list[int], ids: list[int]) -> float:
        rows = logprobs(model, before + ids[:-1])[len(before) - 1 :]
        return sum(float(row[i]) for row, i in zip(rows, ids, strict=True))

    def sum_of(question: Any, choice: str) -> float:
        before = tokenizer.encode_ordinary(question["text"])
        whole = tokenizer.encode_ordinary(f"{question['text']} {choice}")
        return logprob(before, whole[len(before) :])

    right = [
        max(range(4), key=lambda i: sum_of(question, question["choices"][i])) == question["answer"]
        for question in questions
    ]
    nats = 0.0
    for text in texts:
        ids = [tokenizer.special_tokens["<|endoftext|>"], *tokenizer.encode_ordinary(text)]
        for first in range(1, len(ids), window):
            end = min(first + window, len(ids))
            nats += logprob(ids[max(0, end - window - 1) : first], ids[first:end])
    n_bytes = sum(len(text.encode()) for text in texts)
    return sum(right) / len(right), -nats / n_bytes / math.log(2)


def test_local_completions_says_what_hf_says(
    model: GPT, tokenizer: BPETokenizer, nursery_text: str, tmp_path: Path
) -> None:
    folder, tasks = tmp_path / "small", tmp_path / "tasks"
    save_description(folder, model.config, tokenizer)
    save_weights(model, folder / "model.safetensors")
    tasks.mkdir()
    (tasks / "nouns.yaml").write_text(CHOICES.format(folder=tasks))
    (tasks / "texts.yaml").write_text(TEXTS.format(folder=tasks))
    lines = [line for line in nursery_text.splitlines() if line.startswith("The ")][:24]
    nouns = ["king.", "fool.", "crow.", "river."]
    questions = [
        {"text": line.rpartition(" ")[0], "choices": nouns, "answer": i % 4}
        for i, line in enumerate(lines)
    ]
    texts = [{"text": nursery_text[i : i + 700]} for i in range(0, 4200, 700)]
    for name, rows in (("nouns", questions), ("texts", texts)):
        (tasks / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    # Over HTTP, a window is two tokens shorter than max_length: one for what comes before it, one
    # for the token that is generated.
    size = model.config.block_size
    expected = by_hand(model, tokenizer, questions, [text["text"] for text in texts], size - 1)
    models: dict[str, Any] = {}
    if find_spec("accelerate") is not None:  # which the harness's hf needs
        models["hf"] = {"pretrained": str(folder), "device": "cpu", "max_length": size - 1}
    with running(folder, tmp_path / "log") as server:
        models["local-completions"] = {
            "model": "small",
            "base_url": f"{server.url}/v1/completions",
            "tokenizer": str(folder),
            "tokenizer_backend": "huggingface",
            "max_length": size + 1,
            "num_concurrent": 4,
        }
        found = evaluate(models, tasks)
        assert server.errors() == ""
    for of_model in found.values():
        assert of_model["nouns"]["acc,none"] == expected[0]
        assert of_model["texts"]["bits_per_byte,none"] == pytest.approx(expected[1], abs=1e-5)
    assert 0 < expected[0] < 1
