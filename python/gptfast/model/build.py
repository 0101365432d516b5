"""Build a model from its configuration."""

from __future__ import annotations

from gptfast.model.base import LanguageModel
from gptfast.model.config import ModelConfig
from gptfast.model.transformer import GPT


def build_model(config: ModelConfig) -> LanguageModel:
    """Return a new model, whose initial weights are drawn from PyTorch's global generator."""
    if config.architecture == "gpt":
        return GPT(config)
    from gptfast.model.baselines import BASELINES

    return BASELINES[config.architecture](config)
