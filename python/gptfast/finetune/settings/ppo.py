"""The settings of `gptfast finetune ppo`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gptfast.errors import UserError, check_at_least
from gptfast.finetune.settings.common import COMMON_GROUPS, FinetuneConfig


@dataclass(frozen=True, kw_only=True)
class PPOOptions:
    """The prompts, the reward model, and the algorithm (Schulman et al., 2017)."""

    prompts: Path
    """JSON lines such as {"prompt": "How are you?"}. A prompt may be a list of messages, too."""
    reward_model: Path
    """The folder of a reward model, as `gptfast finetune reward` makes it."""
    val_fraction: float = 0.1
    """Share of the prompts to validate on."""
    max_new_tokens: int = 64
    """Most tokens of an answer, its end token included."""
    unfinished_penalty: float = 1.0
    """Subtracted from the score of an answer that has no end token."""
    kl_penalty: float = 0.05
    """Weight of the penalty log(p / p_reference) of each token, by which the policy stays close to
    the model that it started from. 0 only shows the divergence."""
    updates_per_rollout: int = 4
    """Optimizer steps on the same answers, after which new ones are sampled."""
    clip: float = 0.2
    """How far a token's probability may rise or fall, as a share, before its gradient stops."""
    value_clip: float = 0.2
    """How far a value may move from the one at sampling time before its gradient stops."""
    value_weight: float = 0.1
    """Weight of the value loss beside that of the policy."""
    gamma: float = 1.0
    """Discount of a reward per token."""
    gae_lambda: float = 0.95
    """Decay of the generalised advantage estimate: 0 trusts the values, 1 the rewards."""


@dataclass(frozen=True, kw_only=True)
class PPOConfig(FinetuneConfig, PPOOptions):
    """The settings of PPO. Raises UserError for impossible values."""

    learning_rate: float = 1e-4
    dtype: Literal["float32"] = "float32"
    """Answers are sampled in float32, and trained on in the same precision."""
    max_loss_spike: float = 1e6
    """Maximum loss of a step above the mean of the last 50 steps. A policy's loss is no measure of
    its quality, so only absurd ones are refused."""
    eval_windows: int = 64
    """Val prompts per evaluation, spread evenly. The final evaluation uses all of them."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("max_new_tokens", "updates_per_rollout"):
            check_at_least(name, getattr(self, name), 1)
        for name in ("unfinished_penalty", "kl_penalty", "value_weight"):
            if not 0 <= getattr(self, name) < math.inf:
                raise UserError(f"{name} is {getattr(self, name)}: expected 0 or more, and finite")
        for name in ("clip", "value_clip"):
            if not getattr(self, name) > 0:
                raise UserError(f"{name} is {getattr(self, name)}: expected more than 0")
        for name in ("gamma", "gae_lambda"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name} is {getattr(self, name)}: expected from 0 to 1")
        if not 0 < self.val_fraction < 1:
            raise UserError(f"val_fraction is {self.val_fraction}: expected 0 < val_fraction < 1")
        if self.parallel == "fsdp":
            raise UserError("ppo needs --parallel ddp: each process samples from the whole model")


GROUPS: dict[str, type] = {"PPO": PPOOptions, **COMMON_GROUPS}
