"""A GRPO objective on the shared chat model, with completions and rewards made up by hand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from gptfast.data.batch import Batch
from gptfast.finetune.grpo import GRPO, prepare
from gptfast.finetune.grpo_losses import group_advantages
from gptfast.finetune.settings.rollouts import GRPOConfig
from gptfast.sample.rollouts import Rollout, padded_rows

MAX_NEW_TOKENS = 6
ROLLOUTS = [
    Rollout(prompt, ids, [0.0] * len(ids), finished=ids[-1] == 4)
    for prompt, completions in {
        (0, 2, 40, 41, 4, 3): ([50, 4], [60, 61, 62, 63, 64, 65], [4], [70, 71, 4]),
        (0, 2, 42, 43, 4, 3): ([80, 81, 82, 4], [83, 4], [84, 85, 4], [86, 87, 88, 89, 90, 4]),
    }.items()
    for prompt, ids in ((list(prompt), ids) for ids in completions)
]
"""Two groups of four completions, of 1 to 6 tokens. Some were cut off."""
REWARDS = [[1.0, 0.0, 0.0, 0.25], [0.0, 1.0, 1.0, 1.0]]


def settings(model: Path, out: Path, **changes: Any) -> GRPOConfig:
    return GRPOConfig(
        **{
            "model": model, "out": out, "reward": "task:add", "max_new_tokens": MAX_NEW_TOKENS,
            "group_size": 4, "batch_size": 2, "device": "cpu", **changes,
        }
    )  # fmt: skip


def objective(config: GRPOConfig) -> GRPO:
    found = prepare(config, Console(quiet=True)).objective
    assert isinstance(found, GRPO)
    return found


def batch_of(rollouts: Sequence[Rollout], rewards: list[list[float]], scale: bool) -> Batch:
    """Return what `GRPO.prepare` returns for these completions."""
    shape = (len(rewards), len(rewards[0]), -1)
    ids, targets, logprobs = (tensor.view(shape) for tensor in padded_rows(rollouts))
    advantages = group_advantages(torch.tensor(rewards, dtype=torch.float64), scale)
    return Batch(ids, targets, extras={"advantages": advantages, "logprobs": logprobs})


def prompts_file(folder: Path) -> Path:
    records: list[dict[str, Any]] = [{"prompt": f"{i} + {i + 1}?", "other": i} for i in range(24)]
    records.append({"prompt": [{"role": "system", "content": "Add."},
                               {"role": "user", "content": "1 + 1?"}]})  # fmt: skip
    path = folder / "prompts.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path
