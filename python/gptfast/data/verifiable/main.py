"""`gptfast finetune tasks`: write the problems of a task to files, to try methods on."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from gptfast.cli import cli
from gptfast.data.verifiable.tasks import Split, find_task
from gptfast.errors import UserError, check_at_least
from gptfast.system.files import make_folder, write_text_atomically


@dataclass(frozen=True, kw_only=True)
class Tasks:
    """Write demonstrations.jsonl to learn from, val.jsonl to choose weights by, and test.jsonl.

    The tasks are make-the-number, copy, reverse, sort, count and add. No problem is in two of the
    files. Each line is an object with a "prompt" and a "completion", as `gptfast finetune sft`
    reads them.
    """

    task: Annotated[str, tyro.conf.Positional]
    """Name of the task, such as make-the-number."""
    out: Path
    """The folder to write to."""
    demonstrations: int = 8000
    """Number of demonstrations. Their problems are drawn from those that are in neither val.jsonl
    nor test.jsonl."""
    right_fraction: float = 1.0
    """Share of the demonstrations whose answer is right. The others have another answer of the same
    format."""
    seed: int = 1337
    """Seed of the demonstrations."""


def main(argv: Sequence[str]) -> int:
    """Write the files. Return 0."""
    config = cli.parse(Tasks, argv, "gptfast finetune tasks")
    task = find_task(config.task)
    check_at_least("demonstrations", config.demonstrations, 1)
    if not 0 <= config.right_fraction <= 1:
        raise UserError(f"right_fraction is {config.right_fraction}: expected from 0 to 1")
    pairs = task.demonstrations(config.demonstrations, config.right_fraction, config.seed)
    files = {"demonstrations.jsonl": pairs}
    splits: tuple[Split, ...] = ("val", "test")
    for split in splits:
        problems = task.problems(split)
        files[f"{split}.jsonl"] = [(problem.prompt, problem.answer) for problem in problems]
    make_folder(config.out)
    for name, content in files.items():
        write_text_atomically(config.out / name, _lines(content))
        print(f"{config.out / name}: {len(content):,} problems of {task.name}")
    return 0


def _lines(pairs: Iterable[tuple[str, str]]) -> str:
    return "".join(
        json.dumps({"prompt": prompt, "completion": completion}) + "\n"
        for prompt, completion in pairs
    )
