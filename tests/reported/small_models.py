"""Small models of every kind, for the tests of what outsiders reported."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from gptfast.model import LanguageModel, ModelConfig, build_model

V, T, C = 37, 12, 16
GPT2 = ModelConfig(V, "gpt", T, 2, 2, C)
LLAMA = replace(
    GPT2, n_kv_head=1, norm="rmsnorm", bias=False, positions="rotary", activation="swiglu",
    n_hidden=24, tie_embeddings=False,
)  # fmt: skip
MIXTRAL = replace(LLAMA, n_expert=4, n_expert_active=2)
SPEEDRUN = replace(
    LLAMA, n_kv_head=None, activation="relu2", qk_norm=True, embedding_norm=True, max_ngram=3,
    ngram_rows=50, logit_softcap=15.0, sliding_window=5, global_every=2,
)  # fmt: skip
MODELS = {
    "gpt2": GPT2,
    "llama": LLAMA,
    "yarn": replace(LLAMA, rope_scaling="yarn", rope_factor=2.0),
    "mixtral": MIXTRAL,
    "experts, by bias": replace(MIXTRAL, expert_balance="bias"),
    "speedrun": SPEEDRUN,
    "bigram": replace(GPT2, architecture="bigram"),
    "average": replace(GPT2, architecture="average"),
    "head": replace(GPT2, architecture="head", n_head=1),
    "multihead": replace(GPT2, architecture="multihead"),
}
EVERY_MODEL = pytest.mark.parametrize("config", MODELS.values(), ids=MODELS)


def shaken(config: ModelConfig) -> LanguageModel:
    """A model in which no weight is zero or one."""
    torch.manual_seed(0)
    model = build_model(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


def some_ids(batch: int = 2, time: int = T) -> torch.Tensor:
    return torch.randint(V, (batch, time), generator=torch.Generator().manual_seed(1))
