from __future__ import annotations

from pathlib import Path

import pytest
from judged import TEXTS, save, shaken

from gptfast.model import GPT, ModelConfig
from gptfast.tokenizer import BPETokenizer


@pytest.fixture(scope="session")
def tokenizer() -> BPETokenizer:
    return BPETokenizer.train(TEXTS, 280, special_tokens=("<|endoftext|>",))


@pytest.fixture(scope="session")
def model() -> GPT:
    return shaken(ModelConfig(280, "gpt", 16, 2, 2, 16))


@pytest.fixture
def folder(tmp_path: Path, model: GPT, tokenizer: BPETokenizer) -> Path:
    return save(tmp_path / "model", model, tokenizer)
