"""Rewards: plain Python functions that score a completion of a prompt."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, TypeAlias

from gptfast.data.verifiable.tasks import VerifiableTask, find_task
from gptfast.errors import UserError, shown

Reward: TypeAlias = Callable[[str, str], float]
"""(prompt, completion) -> a finite number, the higher the better. The completion has no stop token;
a completion that was cut off is scored like any other."""


def task_of(name: str) -> VerifiableTask | None:
    """Return the task that a reward names, by 'task:NAME' or 'reasoning-gym:NAME', or None."""
    kind, _, task = name.partition(":")
    if kind == "reasoning-gym":
        from gptfast.data.verifiable.reasoning_gym import gym_task

        return gym_task(task)
    return find_task(task) if kind == "task" else None


def load_reward(name: str) -> Reward:
    """Return the reward of a name: that of a task, or a function 'package.module:function'.

    Modules are also found in the current folder. Raises UserError if there is no such function. So
    does the reward, if the function fails or returns anything but a finite number.
    """
    module, colon, function = name.partition(":")
    if not (colon and module and function):
        raise UserError(f"reward is {name!r}: expected package.module:function or task:NAME")
    if (task := task_of(name)) is not None:
        return task.reward
    return _checked(name, _function(name, module, function))


def _function(name: str, module: str, function: str) -> Callable[[str, str], Any]:
    here = str(Path.cwd())
    if here not in sys.path:  # as it is for `python -m`
        sys.path.insert(0, here)
    try:
        found: Any = getattr(import_module(module), function)
    except (Exception, SystemExit) as error:  # whatever the user's module may raise
        raise UserError(f"reward {name!r}: {_described(error)}") from error
    if not callable(found):
        raise UserError(f"reward {name!r} is {shown(found)}: expected a function")
    return found  # type: ignore[no-any-return]


def _checked(name: str, function: Callable[[str, str], Any]) -> Reward:
    def reward(prompt: str, completion: str) -> float:
        where = f"reward {name!r} of the completion {completion!r} of the prompt {prompt!r}"
        try:
            value = function(prompt, completion)
        except (Exception, SystemExit) as error:  # whatever the user's function may raise
            raise UserError(f"{where}: {_described(error)}") from error
        try:
            number = math.nan if isinstance(value, (str, bytes)) else float(value)
        except (TypeError, ValueError, OverflowError, RuntimeError):  # RuntimeError: tensors
            number = math.nan
        if not math.isfinite(number):
            raise UserError(f"{where} is {shown(value)}: expected a finite number")
        return number

    return reward


def _described(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
