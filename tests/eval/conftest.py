from __future__ import annotations

from pathlib import Path

import pytest
import torch

from gptfast.model import GPT, LanguageModel, ModelConfig
from gptfast.model.folder import save_description, save_weights
from gptfast.tokenizer import BPETokenizer, Tokenizer

STORY = "The crow sees the moon. The fool hears the river, and the crow follows the fool.\n"
TEXTS = [
    STORY * 4,
    "Who sees the river?\n",
    "Céline forgets the king, the sword and the door.\n" * 3,
]


def shaken(config: ModelConfig, seed: int = 0) -> GPT:
    """A model whose predictions depend on everything before."""
    torch.manual_seed(seed)
    model = GPT(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


@pytest.fixture(scope="session")
def tokenizer() -> BPETokenizer:
    return BPETokenizer.train(TEXTS, 280, special_tokens=("<|endoftext|>",))


@pytest.fixture(scope="session")
def model() -> GPT:
    return shaken(ModelConfig(280, "gpt", 16, 2, 2, 16))


def save(folder: Path, model: LanguageModel, tokenizer: Tokenizer) -> Path:
    save_description(folder, model.config, tokenizer)
    save_weights(model, folder / "model.safetensors")
    return folder


@pytest.fixture
def folder(tmp_path: Path, model: GPT, tokenizer: BPETokenizer) -> Path:
    return save(tmp_path / "model", model, tokenizer)
