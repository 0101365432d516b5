"""A small model with roles and a chat template, from which fine-tuning starts."""

from __future__ import annotations

from pathlib import Path

import pytest
from chat_model import new_chat_base


@pytest.fixture(scope="session")
def chat_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in GPT-2's layout: 75,000 parameters, a context of 64, byte-level BPE."""
    return new_chat_base(tmp_path_factory.mktemp("models") / "chat_base")


REWARD = """
def score(prompt, completion):
    return len(set(completion.encode())) % 5 / 4
"""


@pytest.fixture
def reward(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A function of the user whose values differ within most groups."""
    (tmp_path / "made_up_rewards.py").write_text(REWARD)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    monkeypatch.syspath_prepend(tmp_path)
    return "made_up_rewards:score"
