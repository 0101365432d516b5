"""Mixtral's format: Mistral with experts, whose matrices are stored separately."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any, ClassVar

from gptfast.errors import as_float
from gptfast.model.config import ModelConfig
from gptfast.model.formats.base import Stored, positive, refuse_others
from gptfast.model.formats.llama import Mistral

EXPERT_NAMES = {"mlp.c_fc": ("w1", "w3"), "mlp.c_proj": ("w2",)}
"""The stored names of an expert's matrices, keyed by gptfast's names."""


class Mixtral(Mistral):
    """Mixtral's format: Mistral whose MLPs are experts."""

    architecture = "MixtralForCausalLM"
    defaults: ClassVar[dict[str, Any]] = {
        **Mistral.defaults,
        "rms_norm_eps": 1e-5,
        "rope_theta": 1_000_000.0,
        "sliding_window": None,
    }

    def describe(self, config: ModelConfig) -> dict[str, Any]:
        """Return config.json; see `Format.describe`."""
        return super().describe(config) | {
            "num_local_experts": config.n_expert,
            "num_experts_per_tok": config.n_expert_active,
            # Mixtral's loss sums over a token's experts where gptfast's averages. (Mixtral also
            # takes the means over all layers before multiplying; gptfast multiplies per layer and
            # takes the mean of the products.)
            "router_aux_loss_coef": config.expert_balance_rate / config.n_expert_active,
        }

    def parse(self, stored: Stored) -> ModelConfig:
        """Return the configuration; see `Format.parse`."""
        refuse_others(stored, {"router_jitter_noise": (0.0, None)})
        n_active = positive(stored, "num_experts_per_tok")
        coefficient = as_float("router_aux_loss_coef", stored.get("router_aux_loss_coef", 0.001))
        return replace(
            super().parse(stored),
            n_expert=stored["num_local_experts"],
            n_expert_active=n_active,
            expert_balance_rate=round(coefficient * n_active, 12),
        )

    def names(self, name: str, config: ModelConfig) -> list[str]:
        """Return the stored names of a parameter; see `Format.names`."""
        expert = re.fullmatch(r"h\.(\d+)\.(mlp\.c_\w+)", name)
        if not expert:
            return super().names(name, config)
        return [
            f"model.layers.{expert[1]}.block_sparse_moe.experts.{e}.{matrix}.weight"
            for e in range(config.n_expert)
            for matrix in EXPERT_NAMES[expert[2]]
        ]
