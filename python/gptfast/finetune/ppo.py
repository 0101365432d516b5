"""PPO: raise the score that a reward model gives to the policy's own answers.

Schulman et al., "Proximal Policy Optimization Algorithms" (2017); for language models, Ouyang et
al., "Training language models to follow instructions with human feedback" (2022).

Legend: B rollouts, T time.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor, nn

from gptfast.cli.units import count
from gptfast.data.batch import IGNORED, Batch
from gptfast.data.conversations import read_records, split_by_prompt
from gptfast.data.shuffled import ShuffledSource
from gptfast.errors import UserError
from gptfast.finetune.chat_start import open_chat_start
from gptfast.finetune.ppo_losses import advantages, policy_loss, value_loss
from gptfast.finetune.rollouts import Rollout, roll_out, seed_of
from gptfast.finetune.settings.ppo import PPOConfig
from gptfast.finetune.start import Start
from gptfast.model.base import LanguageModel
from gptfast.model.folder import load_float_model
from gptfast.model.heads import ActorCritic, SequenceClassifier, load_classifier, score_texts
from gptfast.tokenizer.chat import ChatTemplate, read_chat_template
from gptfast.train.distributed import World
from gptfast.train.init_from import weights_sha256
from gptfast.train.objective import Evaluation, Objective, Task

_EVALUATION = 2**32
"""Number that the seeds of evaluations have in place of a rollout's."""


def prepare(config: PPOConfig, console: Console) -> Task:
    """Read the prompts and the reward model. Raises UserError or MissingFileError."""
    start = open_chat_start(config, console)
    train, val, n_long = read_prompts(config, start)
    reward_model = open_reward_model(config.reward_model, start)
    reference = open_reference(config, start)
    return Task(
        source=prompt_source(config, start, train, val),
        objective=PPO(config, start, val, reward_model, reference),
        tokenizer=start.tokenizer,
        new_model=start.new_model(build=ActorCritic, dropout=0.0, ngram_dropout=0.0),
        chat_template=start.chat_template,
        record={
            "start_sha256": start.sha256,
            "reward_model_sha256": weights_sha256(config.reward_model),
        },
        notes=[
            f"train on {count(len(train), 'prompt')}, validate on {len(val):,}",
            *([f"left out: {count(n_long, 'prompt')} without room for an answer"] * (n_long > 0)),
        ],
    )
