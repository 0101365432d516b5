"""The objective of GRPO: its gradients by hand, its rollouts, and whole runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from finetune.conftest import check_killed_and_resumed
from measured import measured
from processes import start
from rich.console import Console
from torch import Tensor, nn

from gptfast.data.batch import IGNORED, Batch
from gptfast.errors import UserError
from gptfast.finetune.__main__ import main, parse_config
from gptfast.finetune.grpo import GRPO, prepare
from gptfast.finetune.grpo_losses import group_advantages, token_losses
from gptfast.finetune.settings.grpo import GRPOConfig
from gptfast.model.base import LanguageModel
from gptfast.train.distributed import SINGLE_PROCESS
from gptfast.train.objective import Task
from gptfast.train.run import run

REWARD = """
def digits(prompt, completion):
    return sum(c.isdigit() for c in completion) / 4 + len(prompt) / 100
"""


@pytest.fixture
def reward(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A reward that differs within most groups."""
    (tmp_path / "digit_rewards.py").write_text(REWARD)
    monkeypatch.syspath_prepend(tmp_path)
    return "digit_rewards:vowels"
