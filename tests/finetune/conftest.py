"""A small model with roles and a chat template, from which fine-tuning starts."""

from __future__ import annotations

from pathlib import Path

import pytest
from chat_model import new_chat_base


@pytest.fixture(scope="session")
def chat_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in GPT-2's layout: 75,000 parameters, a context of 64, byte-level BPE."""
    return new_chat_base(tmp_path_factory.mktemp("models") / "chat_base")
