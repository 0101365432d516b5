"""Verifiable tasks give credit for right answers only; rewards are functions that may fail."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptfast.data.verifiable.rewards import load_reward, task_of
from gptfast.data.verifiable.tasks import TASKS, Problem, find_task
from gptfast.errors import UserError
from gptfast.finetune.__main__ import main

tasks = pytest.mark.parametrize("name", TASKS)


@tasks
def test_all_answers_are_right_and_no_problem_is_in_two_splits(name: str) -> None:
    task = TASKS[name]
    train, val, test = (task.problems(split) for split in ("train", "val", "test"))
    for problem in train + val + test:
        assert task.is_well_formed(problem.answer)
        assert task.reward(problem.prompt, problem.answer) == 1
    splits = [{"".join(sorted(p.prompt)) for p in split} for split in (train, val, test)]
    assert len(set.union(*splits)) == sum(map(len, splits))
    n = len(train + val + test)
    assert 0.09 < len(test) / n < 0.2  # the hash draws groups, some large
    assert 0.03 < len(val) / n < 0.2


@tasks
def test_a_text_around_the_answer_earns_nothing(name: str) -> None:
    task = TASKS[name]
    for prompt, answer in [(p.prompt, p.answer) for p in task.problems("test")[::40]]:
        hostile = (
            f"{answer}\n", f" {answer}", f"{answer} ", answer + answer, f"The answer is {answer}",
            f"{answer}{answer[-1]}", answer[:-1], "", "\n", prompt + answer, f"eval({answer!r})",
            f"{answer}<|end|>", f"0{answer}", "\N{ARABIC-INDIC DIGIT ZERO}" * len(answer),
            "__import__('os').abort()", "9**9**9**9", "\ufffd", "\x00",
        )  # fmt: skip
        for completion in hostile:
            assert task.reward(prompt, completion) == 0, completion
            assert not task.is_well_formed(completion)


@given(st.data())
def test_make_the_number_agrees_with_a_list_of_all_right_answers(data: st.DataObject) -> None:
    task = find_task("make-the-number")
    problem = data.draw(st.sampled_from(task.problems("test")))
    a, b = problem.prompt[:2], problem.prompt[3:5]
    c = int(problem.prompt[6:9])
    right = set()
    for x, y in ((a, b), (b, a)):
        results = {"+": int(x) + int(y), "-": int(x) - int(y), "*": int(x) * int(y)}
        right |= {f"{x}{sign}{y}" for sign, result in results.items() if result == c}
    drawn = data.draw(
        st.one_of(
            st.text(),
            st.text(alphabet=f"{a}{b}+-*/ \n٣", min_size=4, max_size=6),
            st.from_regex("[0-9]{2}[-+*][0-9]{2}", fullmatch=True),
            st.sampled_from(sorted(right)),
        )
    )
    assert task.reward(problem.prompt, drawn) == float(drawn in right)


def test_other_answers_than_the_stored_one_may_be_right() -> None:
    task = find_task("make-the-number")
    assert task.reward("03 18=054:", "18*03") == 1
    assert task.reward("02 02=004:", "02*02") == task.reward("02 02=004:", "02+02") == 1
    assert task.reward("18 03=015:", "03-18") == 0
    assert task.reward("03 18=054:", "27+27") == 0  # other numbers


@tasks
def test_demonstrations_are_right_as_often_as_asked(name: str) -> None:
    task = TASKS[name]
    pairs = task.demonstrations(2000, 0.3, seed=1)
    assert pairs == task.demonstrations(2000, 0.3, seed=1)
    assert pairs != task.demonstrations(2000, 0.3, seed=2)
    assert all(task.is_well_formed(answer) for _, answer in pairs)
    assert {prompt for prompt, _ in pairs} <= {p.prompt for p in task.problems("train")}
    right = sum(task.reward(prompt, answer) for prompt, answer in pairs)
    assert right / 2000 == pytest.approx(0.3, abs=0.04)  # 4 standard errors


def test_an_unknown_prompt_or_task_is_refused() -> None:
    with pytest.raises(UserError, match=r"'1 \+ 1' is no problem of the task add"):
        find_task("add").reward("1 + 1", "2")
    with pytest.raises(UserError, match="unknown task 'addition': expected one of make-the"):
        load_reward("task:addition")


MODULE = """
def length(prompt, completion):
    return len(completion)

def fails(prompt, completion):
    return 1 / 0

def nan(prompt, completion):
    return float("nan")

def text(prompt, completion):
    return "1"

def nothing(prompt, completion):
    pass

def ends(prompt, completion):
    raise SystemExit(0)

def is_long(prompt, completion):
    return len(completion) > 2

number = 3
"""


def test_a_reward_is_a_function_of_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_rewards.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", ["", *sys.path])
    assert load_reward("my_rewards:length")("a", "bcd") == 3
    assert load_reward("my_rewards:is_long")("a", "bcd") == 1.0
    assert load_reward("task:add")("13+29=", "042") == 1
    for name, message in {
        "fails": "reward 'my_rewards:fails' of the completion 'b' of the prompt 'a': "
        "ZeroDivisionError: division by zero",
        "nan": "is nan: expected a finite number",
        "text": "is '1': expected a finite number",
        "nothing": "is None: expected a finite number",
        "ends": "SystemExit: 0",
    }.items():
        with pytest.raises(UserError, match=re.escape(message)):
            load_reward(f"my_rewards:{name}")("a", "b")
    for name, message in {
        "my_rewards:absent": "AttributeError: module 'my_rewards' has no attribute 'absent'",
        "my_rewards:number": "is 3: expected a function",
        "no_such_module:f": "ModuleNotFoundError: No module named 'no_such_module'",
        "length": "reward is 'length': expected package.module:function or task:NAME",
    }.items():
        with pytest.raises(UserError, match=re.escape(message)):
            load_reward(name)


def test_tasks_are_written_to_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "sort"
    assert main(["tasks", "sort", "--out", str(out), "--demonstrations", "50"]) == 0
    assert "50 problems of sort" in capsys.readouterr().out
    demonstrations, val, test = (
        [json.loads(line) for line in (out / name).read_text().splitlines()]
        for name in ("demonstrations.jsonl", "val.jsonl", "test.jsonl")
    )
    task = find_task("sort")
    assert len(demonstrations) == 50
    assert all(task.reward(one["prompt"], one["completion"]) == 1 for one in demonstrations)
    for found, split in ((val, task.problems("val")), (test, task.problems("test"))):
        assert [(one["prompt"], one["completion"]) for one in found] == [
            (problem.prompt, problem.answer) for problem in split
        ]
    with pytest.raises(UserError, match=r"right_fraction is 2\.0: expected from 0 to 1"):
        main(["tasks", "sort", "--out", str(out), "--right-fraction", "2"])


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(UserError, match=r"pip install gptfast\[reasoning-gym\]"):
        load_reward("reasoning-gym:chain_sum")


class FakeGym:
    """The package reasoning-gym with a data set whose scores give credit for any answer."""

    @staticmethod
    def create_dataset(name: str, size: int, seed: int) -> FakeGym:
        if name != "sums":
            raise ValueError(f"Dataset {name} not registered")
        return FakeGym()

    def __iter__(self) -> Iterator[dict[str, str]]:
        return iter({"question": f"{i} + 1?", "answer": str(i + 1)} for i in range(100))

    def score_answer(self, answer: str, entry: dict[str, str]) -> float:
        return 1.0 if answer == entry["answer"] else 0.5 if entry["answer"] in answer else 0.01


def test_only_the_full_score_of_reasoning_gym_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "reasoning_gym", FakeGym)
    reward = load_reward("reasoning-gym:sums")
    assert [reward("7 + 1?", text) for text in ("8", "it is 8", "9", "")] == [1, 0, 0, 0]
    with pytest.raises(UserError, match="reasoning-gym has no data set 'song'"):
        load_reward("reasoning-gym:song")
    with pytest.raises(UserError, match="'song' is no problem of the task sums"):
        reward("song", "8")


def test_the_package_itself_makes_and_verifies_problems() -> None:
    pytest.importorskip("reasoning_gym")
    task = task_of("reasoning-gym:chain_sum")
    assert task is not None
    reward = load_reward("reasoning-gym:chain_sum")
    for problem in task.problems("test")[:20]:
        signed = re.findall(r"[+-]?\d+", problem.prompt.replace(" ", ""))
        total = str(sum(map(int, signed)))
        assert reward(problem.prompt, total) == 1
        for wrong in (f"{total}0", f"The answer is {total}.", "", "no number"):
            assert reward(problem.prompt, wrong) == 0
    assert min(len(task.problems(split)) for split in ("train", "val", "test")) > 50
    assert task.demonstrations(3, 0.0, seed=1) == task.demonstrations(3, 0.0, seed=1)
    with pytest.raises(UserError, match="reasoning-gym has no data set 'song'"):
        load_reward("reasoning-gym:song")


def test_problems_are_plain_values() -> None:
    assert find_task("count").problems("train")[0] == Problem("count a in aaaaa:", "5")
