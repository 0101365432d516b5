"""The settings of `gptfast finetune grpo`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gptfast.errors import UserError, check_at_least
from gptfast.finetune.settings.common import COMMON_GROUPS, FinetuneConfig


@dataclass(frozen=True, kw_only=True)
class GRPOOptions:
    """The reward, the prompts, and the algorithm (Shao et al., 2024; Liu et al., 2025)."""

    reward: str
    """A function (prompt, completion) -> number as package.module:function, task:NAME for a task of
    `gptfast finetune tasks`, or reasoning-gym:NAME."""
    prompts: Path | None = None
    """Lines of JSON such as {"prompt": "2 + 2 ="}; a prompt may also be a list of messages. By
    default the train problems of the task that the reward names."""
    val_prompts: Path | None = None
    """Prompts to validate on. By default a share of `prompts`, or the task's val problems."""
    val_fraction: float = 0.1
    """Share of `prompts` to validate on."""
    group_size: int = 8
    """Completions of each of the batch_size prompts of a step, which are compared."""
    max_new_tokens: int = 32
    """Most tokens of a completion, with its end token. A longer one is cut off, and its reward is
    that of the text so far."""
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
class GRPOConfig(FinetuneConfig, GRPOOptions):
    """The settings of GRPO. Raises UserError for impossible values."""

    batch_size: int = 16
    """Prompts per step; micro_batch_size counts prompts, too."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "float32"
    max_loss_spike: float = 1e6
    """Maximum loss of a step above the mean of the last 50 steps. A policy's loss is no measure of
    its quality, and rewards have any scale, so only absurd ones are refused."""
    eval_windows: int = 64
    """Val prompts per evaluation, spread evenly. The final evaluation uses all of them."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least("group_size", self.group_size, 2, ", because its completions are compared")
        check_at_least("max_new_tokens", self.max_new_tokens, 1)
        if not 0 <= self.beta < math.inf:
            raise UserError(f"beta is {self.beta}: expected 0 or more, and finite")
        if not 0 < self.val_fraction < 1:
            raise UserError(f"val_fraction is {self.val_fraction}: expected 0 < val_fraction < 1")
        if self.prompts is None and self.val_prompts is not None:
            raise UserError("val_prompts are given without prompts: give --prompts FILE, too")
        if self.dtype != "float32":
            raise UserError(
                f"dtype is {self.dtype!r}: expected 'float32', in which completions are sampled"
            )
        if self.parallel == "fsdp":
            raise UserError("grpo needs --parallel ddp: each process samples from the whole model")


GROUPS: dict[str, type] = {"GRPO": GRPOOptions, **COMMON_GROUPS}
