"""GRPO's prompts and settings: how they are read and split, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from chat_model import SPECIAL
from grpo_toy import objective, prompts_file, settings
from rich.console import Console

from gptfast.data.classes import encode_labelled, read_labelled
from gptfast.data.pairs import encode_pairs, read_pairs
from gptfast.data.prompts import encode_prompts, read_prompts
from gptfast.data.verifiable.tasks import TASKS, Problem, find_task
from gptfast.errors import UserError
from gptfast.finetune.__main__ import parse_config
from gptfast.finetune.grpo import GRPO, prepare
from gptfast.tokenizer import CharTokenizer
from gptfast.tokenizer.chat import ChatTemplate
from gptfast.tokenizer.chat_template import standard_template


def test_prompts_are_messages_of_the_user(chat_base: Path, tmp_path: Path, reward: str) -> None:
    config = settings(chat_base, tmp_path / "run", reward=reward, prompts=prompts_file(tmp_path))
    task = prepare(config, Console(quiet=True))
    grpo = task.objective
    assert isinstance(grpo, GRPO)
    assert (len(grpo.train), len(grpo.val)) == (23, 2)
    by_text = {prompt.text: prompt.ids for prompt in grpo.train + grpo.val}
    tokens = task.tokenizer.special_tokens
    text = task.tokenizer.encode_ordinary("3 + 4?")
    user, end = tokens["<|user|>"], tokens["<|end|>"]
    assert by_text["3 + 4?"] == [tokens["<|endoftext|>"], user, *text, end, tokens["<|assistant|>"]]
    assert by_text["1 + 1?"][1] == tokens["<|system|>"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"reward": "my:f"},
            "prompts are missing, and the reward brings none",
        ),
        ({"val_prompts": Path("a")}, "val_prompts are given without prompts"),
        ({"group_size": 1}, "group_size is 1: expected at least 2, because its completions are"),
        ({"beta": -1.0}, "beta is -1.0: expected 0 or more"),
        ({"parallel": "fsdp"}, "parallel is 'fsdp': expected 'ddp', as each process samples"),
        ({"reward": "task:nothing"}, "unknown task 'nothing'"),
        (
            {"max_new_tokens": 60},
            "none of .* room for max_new_tokens 60 in the context of 64",
        ),
    ],
)
def test_impossible_settings_are_refused(
    chat_base: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        prepare(settings(chat_base, tmp_path, **changes), Console(quiet=True))


@pytest.mark.parametrize(
    "given", [("--temperature", "0.8"), ("--top-k", "50"), ("--dtype", "auto")]
)
def test_nothing_may_come_between_the_sampled_and_the_trained_distribution(
    given: tuple[str, str],
) -> None:
    with pytest.raises(UserError, match=given[0][2:]):
        parse_config("grpo", ["--model", "m", "--out", "o", "--reward", "task:add", *given])


@pytest.mark.parametrize(
    ("reward", "line", "message"),
    [
        ("builtins:max", '{"question": "b"}', "line 2: expected 'prompt' or 'instruction'"),
        ("builtins:max", '{"prompt": []}', "line 2: 'prompt' is not a list of at least one"),
        (
            "builtins:max", '{"prompt": [{"role": "assistant", "content": "b"}]}',
            "line 2: the last message of 'prompt' is the assistant's: expected one that can be",
        ),
        ("task:add", '{"prompt": "1 + 1"}', "'1 [+] 1' is no problem of the task add"),
    ],
)  # fmt: skip
def test_a_prompt_that_cannot_be_answered_is_refused(
    chat_base: Path, tmp_path: Path, reward: str, line: str, message: str
) -> None:
    file = tmp_path / "bad.jsonl"
    file.write_text('{"prompt": "13+29="}\n' + line + "\n")
    config = settings(chat_base, tmp_path / "run", reward=reward, prompts=file)
    with pytest.raises(UserError, match=message):
        prepare(config, Console(quiet=True))


def test_prompts_that_leave_no_room_are_left_out_and_counted(
    chat_base: Path, tmp_path: Path, reward: str
) -> None:
    file = tmp_path / "prompts.jsonl"
    prompts = ["a", "ab" * 60, "b", *(f"{i}" + "ab" * 60 for i in range(6))]
    file.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts))
    task = prepare(settings(chat_base, tmp_path, reward=reward, prompts=file), Console(quiet=True))
    assert isinstance(task.objective, GRPO)
    kept = [*task.objective.train, *task.objective.val]
    assert sorted((prompt.text, prompt.line) for prompt in kept) == [("a", 1), ("b", 3)]
    room = 65 - task.objective.config.max_new_tokens
    assert task.notes[1] == (
        f"left out 7 prompts longer than {room} tokens, with {65 - room} for the answer in the "
        f"context of 64, at line 2, 4, 5, 6, 7, ... of {file}"
    )
    file.write_text(json.dumps({"prompt": "ab" * 60}) + "\n")
    with pytest.raises(UserError, match=r"prompts.jsonl: none of 1 prompt has at most \d+ tokens"):
        prepare(settings(chat_base, tmp_path, reward=reward, prompts=file), Console(quiet=True))


def test_weights_are_chosen_by_other_problems_than_those_of_the_test(
    chat_base: Path, tmp_path: Path
) -> None:
    grpo, add = objective(settings(chat_base, tmp_path, reward="task:add")), find_task("add")
    assert [prompt.text for prompt in grpo.train] == [p.prompt for p in add.problems("train")]
    assert [prompt.text for prompt in grpo.val] == [p.prompt for p in add.problems("val")]


def test_a_task_without_problems_to_validate_on_is_refused(
    chat_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = replace(find_task("add"), all_problems=lambda: iter([Problem("01+02=", "003")]))
    monkeypatch.setitem(TASKS, "add", small)
    with pytest.raises(UserError, match=r"the task 'add' brings \d prompts to train on and 0 to"):
        prepare(settings(chat_base, tmp_path, reward="task:add"), Console(quiet=True))


def test_prompts_that_are_trained_and_validated_on_are_counted(
    chat_base: Path, tmp_path: Path, reward: str
) -> None:
    train, val = prompts_file(tmp_path), tmp_path / "val.jsonl"
    val.write_text('{"prompt": "3 + 4?"}\n{"prompt": "another one"}\n')
    config = settings(chat_base, tmp_path, reward=reward, prompts=train, val_prompts=val)
    assert prepare(config, Console(quiet=True)).notes == [
        "train on 25 prompts, validate on 2",
        "prompts both trained and validated on: 1",
    ]


def test_text_without_ids_is_refused_with_its_line(tmp_path: Path) -> None:
    tokenizer = CharTokenizer.train("abc", special_tokens=SPECIAL)
    template = standard_template(tokenizer)
    records = [
        {"prompt": text, "chosen": text, "rejected": "c", "text": text, "label": "l"}
        for text in ("a", "b", "z")
    ]
    path = tmp_path / "records.jsonl"
    path.write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    for chat_template in (template, None):
        with pytest.raises(UserError, match=r"^line 3 of the prompts: the character 'z'"):
            encode_prompts(read_prompts(path), tokenizer, chat_template)
    with pytest.raises(UserError, match=r"^line 3 of the pairs: the character 'z'"):
        encode_pairs(read_pairs(path), ChatTemplate(template, tokenizer), 64)
    with pytest.raises(UserError, match=r"^line 3 of the texts: the character 'z'"):
        encode_labelled(read_labelled(path), ["l"], tokenizer, 64)
