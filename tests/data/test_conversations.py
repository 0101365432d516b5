"""Records of conversations: their forms, what is refused with its line, and the split by prompt."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptfast.data.conversations import (
    Conversation,
    check_answers,
    prompt_key,
    read_conversations,
    read_records,
    split_by_prompt,
)
from gptfast.errors import MissingFileError, UserError

ASKED = {"role": "user", "content": "2 + 2?"}
ANSWERED = {"role": "assistant", "content": "4"}


def write(path: Path, *records: Any) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def conversation(*contents: str) -> Conversation:
    roles = ("user", "assistant")
    messages = [{"role": roles[i % 2], "content": text} for i, text in enumerate(contents)]
    return Conversation(tuple(messages), 1)


def test_three_forms_make_the_same_conversation(tmp_path: Path) -> None:
    records = [
        {"messages": [ASKED, {**ANSWERED, "id": 7}], "source": "me"},
        {"instruction": "2 + 2?", "input": "", "output": "4"},
        {"instruction": "2 + 2?", "output": "4"},
        {"prompt": "2 + 2?", "completion": "4"},
    ]
    read = read_conversations(write(tmp_path / "a.jsonl", *records))
    assert [c.messages for c in read] == [(ASKED, ANSWERED)] * 4
    assert [c.line for c in read] == [1, 2, 3, 4]
    (tmp_path / "a.json").write_text(json.dumps(records, indent=1), encoding="utf-8")
    as_list = read_conversations(tmp_path / "a.json")
    assert [c.messages for c in as_list] == [c.messages for c in read]
    lines = (tmp_path / "a.json").read_text(encoding="utf-8").splitlines()
    assert [lines[c.line - 1].strip() for c in as_list] == ["{"] * 4
    (both,) = read_conversations(
        write(tmp_path / "b.jsonl", {"instruction": "Add.", "input": "2 2", "output": "4"})
    )
    assert both.messages[0]["content"] == "Add.\n\n2 2"


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ('{"prompt": 3, "completion": "b"}', "line 2: 'prompt' is not a string"),
        ('{"instruction": "a", "input": 0, "output": "b"}', "line 2: 'input' is not a string"),
        ('{"prompt": "a"}', "line 2: expected 'messages', or 'instruction' and"),
        ('{"messages": []}', "line 2: 'messages' is not a list of at least one"),
        ('{"messages": [{"role": "user"}]}', "line 2: message 1 lacks a 'role' or a 'content'"),
        ('{"messages": [{"role": "tool", "content": ""}]}', "line 2: message 1 has the role 'to"),
        ('\n{"prompt" 3}', "line 3: the record is broken JSON"),
        ("[1]", "line 2: the record is a JSON list: expected an object"),
        ('{"prompt": "\\ud800", "completion": ""}', "line 2: the record has bytes that are not"),
        ('{"prompt": "a"', "line 2: the record ends inside a value"),
    ],
)  # fmt: skip
def test_a_record_is_refused_with_its_line(tmp_path: Path, second: str, message: str) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"prompt": "a", "completion": "b"}\n' + second, encoding="utf-8")
    with pytest.raises(UserError, match=r"a\.jsonl, ") as error:
        read_conversations(file)
    assert message in str(error.value)


def test_files_without_records_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="no file at"):
        read_records(tmp_path / "a.jsonl")
    (tmp_path / "a.jsonl").write_text("\n")
    with pytest.raises(UserError, match="has no records"):
        read_records(tmp_path / "a.jsonl")
    (tmp_path / "a.jsonl").write_bytes(b'{"prompt": "\xff", "completion": "b"}')
    with pytest.raises(UserError, match="line 1: the record has bytes that are not UTF-8"):
        read_records(tmp_path / "a.jsonl")


def test_a_conversation_without_an_answer_is_refused(tmp_path: Path) -> None:
    for messages in ([ASKED], [ASKED, {**ANSWERED, "content": ""}]):
        file = write(tmp_path / "a.jsonl", {"messages": [ASKED, ANSWERED]}, {"messages": messages})
        with pytest.raises(UserError, match=r"a.jsonl, line 2: the conversation has no answer"):
            check_answers(file, read_conversations(file))


def test_prompts_that_read_the_same_are_the_same() -> None:
    key = prompt_key(conversation("Hello  World", "a"))
    assert key == prompt_key(conversation("hello\nｗorld ", "b"))
    assert key != prompt_key(conversation("hello world!", "a"))
    # What precedes the last answer is the prompt: other answers before it make another one.
    assert prompt_key(conversation("hi", "a", "b", "c")) != prompt_key(
        conversation("hi", "A2", "b", "c")
    )


@given(st.lists(st.integers(0, 12), min_size=2), st.floats(0.01, 0.9), st.integers(0, 9))
def test_no_prompt_is_on_both_sides(prompts: list[int], fraction: float, seed: int) -> None:
    items = list(enumerate(prompts))
    if len(set(prompts)) == 1:
        with pytest.raises(UserError, match="can't be split"):
            split_by_prompt(items, lambda item: item[1], fraction, seed)
        return
    train, val = split_by_prompt(items, lambda item: item[1], fraction, seed)
    assert sorted(train + val) == items
    assert train
    assert val
    assert not {prompt for _, prompt in train} & {prompt for _, prompt in val}
    assert len(val) <= max(fraction * len(items), min(map(prompts.count, prompts)))
    assert (train, val) == split_by_prompt(items, lambda item: item[1], fraction, seed)
