"""Tasks whose answers a program verifies: for trying out methods, and for comparing them.

Each task is a list of problems, a format, and a check of an answer. An answer is right only if it
is right as a whole: to contain the right one earns nothing. No answer is ever evaluated as code.
"""

from __future__ import annotations

import hashlib
import operator
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Literal

from gptfast.errors import UserError

Split = Literal["train", "val", "test"]
TEST, VAL = 0.12, 0.08
"""Shares of the problems that only these splits have, on average."""


@dataclass(frozen=True)
class Problem:
    """A prompt and a right answer, of which there may be others."""

    prompt: str
    answer: str


@dataclass(frozen=True)
class VerifiableTask:
    """A kind of problem, and how an answer is verified."""

    name: str
    all_problems: Callable[[], Iterator[Problem]]
    form: str
    """The regular expression of a well-formed answer, right or wrong."""
    is_right: Callable[[Problem, str], bool]
    """Whether a well-formed answer is right."""
    wrong: Callable[[Problem, random.Random], str]
    """Returns a well-formed answer, most often a wrong one."""

    def problems(self, split: Split) -> list[Problem]:
        """Return the problems of a split, in a fixed order.

        Methods learn from "train" and choose weights by "val", so that "test" measures what they
        reach on problems that nothing was chosen by. Problems of the same characters, such as 1+2
        and 2+1, are in the same split.
        """
        return _problems(self)[split]

    def reward(self, prompt: str, completion: str) -> float:
        """Return 1 for a right answer, 0 for any other text.

        Raises UserError for the prompt of another task.
        """
        problem = _by_prompt(self).get(prompt)
        if problem is None:
            raise UserError(f"{prompt!r} is no problem of the task {self.name}")
        return float(self.is_well_formed(completion) and self.is_right(problem, completion))

    def is_well_formed(self, completion: str) -> bool:
        """Return whether the completion has the format of an answer, right or wrong."""
        return re.fullmatch(self.form, completion) is not None

    def demonstrations(self, n: int, right_fraction: float, seed: int) -> list[tuple[str, str]]:
        """Return n prompts of the split "train" with an answer each, of which some are wrong.

        right_fraction: the probability of a right answer.
        """
        rng, problems, pairs = random.Random(seed), self.problems("train"), []
        for _ in range(n):
            problem = rng.choice(problems)
            answer = problem.answer
            if rng.random() >= right_fraction:
                while self.is_right(problem, answer):
                    answer = self.wrong(problem, rng)
            pairs.append((problem.prompt, answer))
        return pairs


@cache
def _problems(task: VerifiableTask) -> dict[Split, list[Problem]]:
    """Return the problems of each split."""
    splits: dict[Split, list[Problem]] = {"train": [], "val": [], "test": []}
    for problem in {problem.prompt: problem for problem in task.all_problems()}.values():
        key = task.name + "".join(sorted(problem.prompt))
        place = int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big") / 2**32
        splits["test" if place < TEST else "val" if place < TEST + VAL else "train"].append(problem)
    return splits


@cache
def _by_prompt(task: VerifiableTask) -> dict[str, Problem]:
    return {problem.prompt: problem for split in _problems(task).values() for problem in split}


# ---- make the number: "03 18=054:" -> "03*18" ----------------------------------------------------

_OPERATORS = {"+": operator.add, "-": operator.sub, "*": operator.mul}


def _numbers_to_make() -> Iterator[Problem]:
    for a, b in product(range(1, 21), repeat=2):
        for sign, apply in _OPERATORS.items():
            if (value := apply(a, b)) >= 0:
                yield Problem(f"{a:02} {b:02}={value:03}:", f"{a:02}{sign}{b:02}")


def _makes_the_number(problem: Problem, answer: str) -> bool:
    """Return whether the answer uses both numbers once, and makes the third."""
    a, sign, b = answer[:2], answer[2], answer[3:]
    given, value = problem.prompt[:5].split(), int(problem.prompt[6:9])
    return sorted([a, b]) == sorted(given) and _OPERATORS[sign](int(a), int(b)) == value


def _any_expression(problem: Problem, rng: random.Random) -> str:
    a, b = rng.sample(problem.prompt[:5].split(), 2)
    return a + rng.choice("+-*") + b


# ---- tasks with one right answer -----------------------------------------------------------------


def _is_the_answer(problem: Problem, answer: str) -> bool:
    return answer == problem.answer


def _to_copy() -> Iterator[Problem]:
    for letters in map("".join, product("abcdef", repeat=4)):
        yield Problem(f"copy {letters}:", letters)


def _to_reverse() -> Iterator[Problem]:
    for letters in map("".join, product("abcdef", repeat=4)):
        yield Problem(f"reverse {letters}:", letters[::-1])


def _to_sort() -> Iterator[Problem]:
    for digits in map("".join, product("0123456789", repeat=4)):
        yield Problem(f"sort {digits}:", "".join(sorted(digits)))


def _to_count() -> Iterator[Problem]:
    for letter, word in product("abcd", map("".join, product("abcd", repeat=5))):
        yield Problem(f"count {letter} in {word}:", str(word.count(letter)))


def _to_add() -> Iterator[Problem]:
    for a, b in product(range(100), repeat=2):
        yield Problem(f"{a:02}+{b:02}=", f"{a + b:03}")


def _shuffled(problem: Problem, rng: random.Random) -> str:
    return "".join(rng.choice(problem.answer + "abcdef") for _ in problem.answer)


def _other_number(problem: Problem, rng: random.Random) -> str:
    return "".join(rng.choice("0123456789") for _ in problem.answer)


_LETTERS, _DIGITS = "[a-f]{4}", "[0-9]{4}"
TASKS = {
    task.name: task
    for task in (
        VerifiableTask(
            "make-the-number", _numbers_to_make, "[0-9]{2}[-+*][0-9]{2}", _makes_the_number,
            _any_expression,
        ),
        VerifiableTask("copy", _to_copy, _LETTERS, _is_the_answer, _shuffled),
        VerifiableTask("reverse", _to_reverse, _LETTERS, _is_the_answer, _shuffled),
        VerifiableTask("sort", _to_sort, _DIGITS, _is_the_answer, _other_number),
        VerifiableTask("count", _to_count, "[0-9]", _is_the_answer, _other_number),
        VerifiableTask("add", _to_add, "[0-9]{3}", _is_the_answer, _other_number),
    )
}  # fmt: skip
"""The tasks by name, as `--reward task:NAME` takes them."""


def find_task(name: str) -> VerifiableTask:
    """Return the task of a name. Raises UserError for an unknown one."""
    if name not in TASKS:
        raise UserError(f"unknown task {name!r}: expected one of {', '.join(TASKS)}")
    return TASKS[name]
