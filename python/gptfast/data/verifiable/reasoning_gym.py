"""Tasks of the package reasoning-gym, which makes problems and verifies answers."""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import cache

from gptfast.data.verifiable.tasks import Problem, VerifiableTask
from gptfast.errors import UserError

N_PROBLEMS = 2000


@cache
def gym_task(name: str) -> VerifiableTask:
    """Return a data set of reasoning-gym as a task, with its default options.

    Its own scores give credit for an answer that merely contains the right one. Here, only the full
    score counts. The package reads some answers with sympy, which runs parts of a text as Python.
    Raises UserError for an unknown name, or without the package.
    """
    try:
        import reasoning_gym
    except ImportError as error:
        raise UserError(
            f"the reward reasoning-gym:{name} needs the package reasoning-gym ({error}): "
            f"pip install gptfast[reasoning-gym]"
        ) from error
    try:
        data = reasoning_gym.create_dataset(name, size=N_PROBLEMS, seed=0)
    except ValueError as error:
        raise UserError(f"reasoning-gym has no data set {name!r}: {error}") from error
    entries = {entry["question"]: entry for entry in data}

    def all_problems() -> Iterator[Problem]:
        for question, entry in entries.items():
            yield Problem(question, entry["answer"])

    def is_right(problem: Problem, answer: str) -> bool:
        return bool(data.score_answer(answer, entries[problem.prompt]) >= 1)

    def other_answer(problem: Problem, rng: random.Random) -> str:
        return str(rng.choice(list(entries.values()))["answer"])

    return VerifiableTask(name, all_problems, "(?s).+", is_right, other_answer)
