"""Models: one GPT whose configuration spans GPT-2, and the rungs that lead to it."""

from __future__ import annotations

from gptfast.model.base import LanguageModel
from gptfast.model.baselines import AveragingLM, BigramLM, MultiHeadLM, SelfAttentionLM
from gptfast.model.config import ModelConfig
from gptfast.model.transformer import GPT

__all__ = ["GPT", "LanguageModel", "ModelConfig", "build_model"]


def build_model(config: ModelConfig) -> LanguageModel:
    """Return a freshly initialised model; PyTorch's global seed decides its weights."""
    if config.architecture == "bigram":
        return BigramLM(config)
    if config.architecture == "average":
        return AveragingLM(config)
    rungs = {"head": SelfAttentionLM, "multihead": MultiHeadLM, "gpt": GPT}
    return rungs[config.architecture](config)
