"""Build a model from its configuration."""

from __future__ import annotations

from gptfast.model.base import LanguageModel
from gptfast.model.baselines import AveragingLM, BigramLM, MultiHeadLM, SelfAttentionLM
from gptfast.model.config import Architecture, ModelConfig
from gptfast.model.transformer import GPT

CLASSES: dict[Architecture, type[LanguageModel]] = {
    "bigram": BigramLM,
    "average": AveragingLM,
    "head": SelfAttentionLM,
    "multihead": MultiHeadLM,
    "gpt": GPT,
}


def build_model(config: ModelConfig) -> LanguageModel:
    """Return a new model, whose initial weights are drawn from PyTorch's global generator."""
    return CLASSES[config.architecture](config)
