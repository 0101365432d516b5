"""Settings of the methods that learn from the model's own answers: `grpo` and `ppo`."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

from gptfast.data.split import check_fraction
from gptfast.errors import UserError, check_at_least
from gptfast.finetune.settings.common import COMMON_GROUPS, FinetuneConfig


@dataclass(frozen=True, kw_only=True)
class PromptOptions:
    """The prompts to answer."""

    prompts: Path | None = None
    """JSON lines or a JSON list of objects with 'prompt' (a text or messages). By default the train
    problems of the task that GRPO's reward names."""
    val_prompts: Path | None = None
    """Prompts to validate on. By default a share of `prompts`, or the task's val problems."""
    val_fraction: float = 0.1
    """Share of `prompts` to validate on, without `val_prompts`."""
    max_new_tokens: int = 32
    """Most tokens of an answer, with its end token. A longer one is cut off. Prompts that leave no
    room for it in the context are left out."""


@dataclass(frozen=True, kw_only=True)
class RolloutConfig(FinetuneConfig, PromptOptions):
    """The settings of both methods."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "float32"
    max_loss_spike: float = 1e6
    """Maximum loss of a step above the mean of the last 50 steps. A policy's loss is no measure of
    its quality, and rewards have any scale, so only absurd ones are refused."""
    eval_windows: int = 64
    """Val prompts per evaluation, spread evenly. The final evaluation uses all of them."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_fraction(self.val_fraction)
        check_at_least("max_new_tokens", self.max_new_tokens, 1)
        if self.prompts is None and self.val_prompts is not None:
            raise UserError("val_prompts are given without prompts: give --prompts FILE, too")
        if self.dtype != "float32":
            raise UserError(
                f"dtype is {self.dtype!r}: expected 'float32', in which answers are sampled"
            )
        if self.parallel == "fsdp":
            raise UserError(
                "parallel is 'fsdp': expected 'ddp', as each process samples from the whole model"
            )


@dataclass(frozen=True, kw_only=True)
class GRPOOptions:
    """The reward, and the algorithm (Shao et al., 2024; Liu et al., 2025)."""

    reward: str
    """A function (prompt, completion) -> number as package.module:function, task:NAME for a task of
    `gptfast finetune tasks`, or reasoning-gym:NAME."""
    group_size: int = 8
    """Completions of each of the batch_size prompts of a step, which are compared."""
    loss_type: Literal["dr_grpo", "dapo", "grpo"] = "dr_grpo"
    """How the losses of tokens are averaged: 'dr_grpo' divides their sum by max_new_tokens for each
    completion, 'dapo' by the number of tokens in the batch, and 'grpo' takes the mean of each
    completion, which favours short right answers and long wrong ones."""
    scale_rewards: bool = False
    """Divide the advantages of a group by the standard deviation of its rewards, which gives the
    prompts that are almost always or never solved more weight."""
    beta: float = 0.0
    """Weight of the divergence from the model that the run started from. 0 needs no such model."""


@dataclass(frozen=True, kw_only=True)
class GRPOConfig(RolloutConfig, GRPOOptions):
    """The settings of GRPO. Raises UserError for impossible values."""

    batch_size: int = 16
    """Prompts per step; micro_batch_size counts prompts, too."""
    groups: ClassVar[dict[str, type]] = {
        "prompts": PromptOptions, "GRPO": GRPOOptions, **COMMON_GROUPS,
    }  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least("group_size", self.group_size, 2, ", because its completions are compared")
        if not 0 <= self.beta < math.inf:
            raise UserError(f"beta is {self.beta}: expected 0 or more, and finite")


@dataclass(frozen=True, kw_only=True)
class PPOOptions:
    """The reward model, and the algorithm (Schulman et al., 2017)."""

    reward_model: Path
    """The folder of a reward model, as `gptfast finetune reward` makes it."""
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
class PPOConfig(RolloutConfig, PPOOptions):
    """The settings of PPO. Raises UserError for impossible values."""

    prompts: Path = field()  # no task brings them
    learning_rate: float = 1e-4
    max_new_tokens: int = 64
    groups: ClassVar[dict[str, type]] = {
        "prompts": PromptOptions, "PPO": PPOOptions, **COMMON_GROUPS,
    }  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least("updates_per_rollout", self.updates_per_rollout, 1)
        for name in ("unfinished_penalty", "kl_penalty", "value_weight"):
            if not 0 <= getattr(self, name) < math.inf:
                raise UserError(f"{name} is {getattr(self, name)}: expected 0 or more, and finite")
        for name in ("clip", "value_clip"):
            if not getattr(self, name) > 0:
                raise UserError(f"{name} is {getattr(self, name)}: expected more than 0")
        for name in ("gamma", "gae_lambda"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name} is {getattr(self, name)}: expected from 0 to 1")
