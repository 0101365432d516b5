"""A model folder as lm-evaluation-harness sees it: naive twins, and the harness's own `hf`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from judged import STORY, TEXTS

from gptfast.errors import UserError
from gptfast.model import GPT
from gptfast.sample.config import SamplingConfig
from gptfast.sample.generate import generate
from gptfast.tokenizer import BPETokenizer

pytest.importorskip("lm_eval")

if TYPE_CHECKING:
    from gptfast.eval.harness import HarnessModel


@pytest.fixture
def asked(model: GPT, tokenizer: BPETokenizer) -> HarnessModel:
    from gptfast.eval.harness import HarnessModel

    return HarnessModel(model, tokenizer, batch_size=3)


def request(*arguments: Any) -> Any:
    return SimpleNamespace(args=arguments)


@torch.no_grad()
def logprob(model: GPT, ids: list[int], n: int) -> tuple[float, bool]:
    """Of the last n ids, one by one, given at most the context before each."""
    total, is_greedy = 0.0, True
    for i in range(len(ids) - n, len(ids)):
        # The window that the harness takes for the whole: it ends before the last id.
        seen = ids[max(0, len(ids) - 1 - model.config.block_size) : i]
        logits = model(torch.tensor([seen]))[0, -1].double()
        total += float(logits.log_softmax(-1)[ids[i]])
        is_greedy &= int(logits.argmax()) == ids[i]
    return total, is_greedy


def test_continuations_have_the_log_probability_of_a_naive_loop(
    asked: HarnessModel, model: GPT, tokenizer: BPETokenizer
) -> None:
    eot = tokenizer.eot_token
    assert eot is not None
    first = next(generate(model, tokenizer.encode("The"), 1, sampling=GREEDY, seed=0))
    pairs = [
        ("The crow", " sees"),
        ("", "the moon"),
        ("The", tokenizer.decode([first])),
        (STORY, "a king"),  # longer than the context
        ("x <|endoftext|>", "A"),
        ("The fool ", "hears"),  # the space goes to the continuation
    ]
    found = asked.loglikelihood([request(*pair) for pair in pairs], disable_tqdm=True)
    for (context, continuation), (total, is_greedy) in zip(pairs, found, strict=True):
        if context:
            whole = tokenizer.encode(context + continuation, "all")
            n = len(whole) - len(tokenizer.encode(context.rstrip(), "all"))
        else:
            ids = tokenizer.encode(continuation)
            whole, n = [eot, *ids], len(ids)
        expected = logprob(model, whole, n)
        assert total == pytest.approx(expected[0], rel=1e-5)
        assert is_greedy == expected[1]
    assert tokenizer.encode(pairs[4][0], "all").count(eot) == 1


def test_whole_texts_have_the_log_probability_of_a_naive_loop(
    asked: HarnessModel, model: GPT, tokenizer: BPETokenizer
) -> None:
    """In windows of 16, of which the last ends with the text."""
    found = asked.loglikelihood_rolling([request(text) for text in TEXTS])
    eot = tokenizer.eot_token
    assert eot is not None
    for text, total in zip(TEXTS, found, strict=True):
        ids = [eot, *tokenizer.encode(text)]
        expected, first = 0.0, 1
        while first < len(ids):
            end = min(first + 16, len(ids))
            begin = 0 if first == 1 else end - 17
            expected += logprob(model, ids[begin:end], end - first)[0]
            first = end
        assert total == pytest.approx(expected, rel=1e-5)


GREEDY = SamplingConfig(temperature=0)


def test_generated_text_ends_before_the_first_stop_string(
    asked: HarnessModel, model: GPT, tokenizer: BPETokenizer
) -> None:
    prompt = tokenizer.encode("The crow")
    ids = list(generate(model, prompt, 10, sampling=GREEDY, seed=0))
    whole = tokenizer.decode(ids)
    stop = whole[3:5]
    options = [{"until": ["@@", stop, ""], "max_gen_toks": 10}, {"until": [], "max_gen_toks": 4}]
    found = asked.generate_until([request("The crow", some) for some in options])
    assert found == [whole[: whole.index(stop)], tokenizer.decode(ids[:4])]


def test_wrong_options_of_a_task_are_one_line(asked: HarnessModel) -> None:
    options = {"until": [], "max_gen_toks": "many"}
    with pytest.raises(UserError, match=r"generation_kwargs is .*many"):
        asked.generate_until([request("The crow", options)])


@pytest.mark.parametrize("is_ours", [True, False])
def test_an_error_of_the_model_is_not_the_tasks(
    is_ours: bool,
    model: GPT,
    tokenizer: BPETokenizer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from lm_eval.tasks import TaskManager

    from gptfast.eval.harness import run_tasks

    def fail(*_: object, **__: object) -> None:
        raise AttributeError("nothing here")

    def evaluate(asked: HarnessModel, *_: object, **__: object) -> None:
        asked.loglikelihood_rolling([request("The crow")])
        raise AttributeError("nothing here")

    file = tmp_path / "a.yaml"
    file.write_text("task: a")
    monkeypatch.setattr(TaskManager, "load", lambda *_: {"tasks": {}})
    monkeypatch.setattr("lm_eval.evaluate", evaluate)
    if is_ours:
        monkeypatch.setattr(GPT, "forward", fail)
    expected = (AttributeError, "^nothing here$") if is_ours else (UserError, "is no task that can")
    with pytest.raises(expected[0], match=expected[1]):
        run_tasks(model, tokenizer, [file], 2, None)


# ---- the whole command, beside the harness's own model -------------------------------------------

CHOICES = """\
task: animals
dataset_path: json
dataset_kwargs:
  data_files: {folder}/animals.jsonl
test_split: train
output_type: multiple_choice
doc_to_text: "The {{{{who}}}} sees the"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: answer
metric_list:
  - metric: acc
"""
ROLLING = """\
task: stories
dataset_path: json
dataset_kwargs:
  data_files: {folder}/stories.jsonl
test_split: train
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{{{text}}}}"
metric_list:
  - metric: bits_per_byte
"""
WRITTEN = """\
task: written
dataset_path: json
dataset_kwargs:
  data_files: {folder}/written.jsonl
test_split: train
output_type: generate_until
doc_to_text: "{{{{prompt}}}}"
doc_to_target: "{{{{target}}}}"
generation_kwargs:
  until: ["\\n"]
  max_gen_toks: 6
metric_list:
  - metric: exact_match
"""
PROGRAM = """
import contextlib, io, json, sys
from pathlib import Path
from gptfast.cli import cli
from gptfast.eval.__main__ import main

folder, files, faults = map(json.loads, sys.argv[1:])

def run():
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        return cli.run(main, [folder, "--tasks", *files, "--json"]), printed.getvalue()

ours = run()
described = Path(files[0]).read_text()
codes = []
for fault in faults:
    Path(files[0]).write_text(fault)
    codes.append(run()[0])
Path(files[0]).write_text(described)

from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager

found = simple_evaluate(
    model="hf",
    model_args={"pretrained": folder, "tokenizer": folder, "device": "cpu"},
    tasks=files,
    task_manager=TaskManager(include_defaults=False),
    bootstrap_iters=0,
)
print(json.dumps([ours, codes, found["results"]]))
"""


def run(tmp_path: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the command, once with each fault, and the harness's own model in one process.

    It is not this one: the harness warns of much. Importing it takes seconds.
    """
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")}
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, *map(json.dumps, arguments)],
        capture_output=True, text=True, env={**os.environ, **offline},
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(find_spec("accelerate") is None, reason="the harness's hf needs accelerate")
def test_the_harness_finds_what_it_finds_with_its_own_model(
    folder: Path, tmp_path: Path, model: GPT, tokenizer: BPETokenizer
) -> None:
    nouns = [" moon", " king", " river", " fool"]
    animals = [
        {"who": who, "choices": nouns, "answer": i % 4}
        for i, who in enumerate(["crow", "fool", "king", "door", "sword", "moon"] * 4)
    ]
    # What the model writes is the target of every second prompt.
    prompts = ["The crow", "The fool", "Who", "The king"]
    written = []
    for i, prompt in enumerate(prompts):
        ids = generate(model, tokenizer.encode(prompt), 6, sampling=GREEDY, seed=0)
        target = tokenizer.decode(list(ids)).split("\n")[0]
        written.append({"prompt": prompt, "target": target if i % 2 else "something else"})
    for name, records in (
        ("animals", animals), ("stories", [{"text": text} for text in TEXTS]), ("written", written)
    ):  # fmt: skip
        lines = "".join(f"{json.dumps(record)}\n" for record in records)
        (tmp_path / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    files = []
    for name, description in (("animals", CHOICES), ("stories", ROLLING), ("written", WRITTEN)):
        files.append(tmp_path / f"{name}.yaml")
        files[-1].write_text(description.format(folder=tmp_path), encoding="utf-8")
    # Faults of a task file are one line.
    faults = {
        "task: [": "ParserError",
        "nothing: here": "Unknown config shape",
        CHOICES.format(folder=tmp_path / "nowhere"): "nowhere",
        CHOICES.format(folder=tmp_path).replace("test_split: train", "test_split: x"): "'x'",
    }
    done = run(tmp_path, str(folder), [*map(str, files)], [*faults])
    assert done.returncode == 0, done.stderr
    (code, printed), codes, expected = json.loads(done.stdout.splitlines()[-1])
    assert code == 0, done.stderr
    found = json.loads(printed)["tasks"]
    assert found["animals"]["acc"]["value"] == expected["animals"]["acc,none"]
    assert 0 < found["animals"]["acc"]["value"] < 1
    assert found["animals"]["documents"] == 24
    bits = found["stories"]["bits_per_byte"]["value"]
    assert bits == pytest.approx(expected["stories"]["bits_per_byte,none"], abs=1e-3)
    assert found["written"]["exact_match"]["value"] == 0.5
    assert expected["written"]["exact_match,none"] == 0.5
    assert codes == [2] * len(faults), done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    for said, line in zip(faults.values(), lines, strict=True):
        assert line.startswith(f"error: {files[0]} is no task that can be evaluated: ")
        assert said in line
    assert "Traceback" not in done.stderr
