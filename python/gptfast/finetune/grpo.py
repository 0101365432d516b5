"""GRPO: raise a reward that is a function of the text, by comparing completions of one prompt.

Legend: P prompts, G completions of each, N = P G, T time.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from rich.console import Console
from torch import Tensor, nn

from gptfast.data.batch import IGNORED, Batch
from gptfast.data.prompts import Prompt, prompt_source
from gptfast.data.shuffled import fingerprint_of
from gptfast.data.verifiable.rewards import load_reward, task_of
from gptfast.finetune.grpo_losses import group_advantages, sum_of_losses, token_losses
from gptfast.finetune.prompt_start import open_prompt_start, val_share
from gptfast.finetune.settings.rollouts import GRPOConfig
from gptfast.finetune.start import Start, load_reference
from gptfast.model.base import LanguageModel
from gptfast.sample.config import SamplingConfig
from gptfast.sample.rollouts import (
    GREEDY,
    UNBIASED,
    Rollout,
    padded_rows,
    roll_out,
    seed_of,
)
from gptfast.train.distributed import World
from gptfast.train.objective import Evaluation, Objective, Task


def prepare(config: GRPOConfig, console: Console) -> Task:
    """Read the prompts and load the reward. Raises UserError or MissingFileError."""
    task = task_of(config.reward)
    start, train, val, notes = open_prompt_start(config, task, n_unread=1)
    if task is not None:
        for prompt in [*train, *val]:
            task.reward(prompt.text, "")  # raises for a prompt of no problem
    ids = [[prompt.ids for prompt in prompts] for prompts in (train, val)]
    fingerprint = fingerprint_of(ids, start.tokenizer.fingerprint, start.sha256)
    return start.task(
        prompt_source(train, config.batch_size, config.seed, fingerprint),
        GRPO(config, start, train, val),
        start.new_model(dropout=0.0, ngram_dropout=0.0),
        notes,
    )


class GRPO(Objective):
    """The policy gradient of completions, each compared with the others of its prompt.

    A batch is (P, G, T), so that processes and micro-batches get whole groups.
    """

    def __init__(
        self, config: GRPOConfig, start: Start, train: list[Prompt], val: list[Prompt]
    ) -> None:
        """Load the reward, and the reference if the loss needs it. Raises UserError."""
        self.config, self.tokenizer = config, start.tokenizer
        self.train, self.val = train, val
        self.reward = load_reward(config.reward)
        self.reference = load_reference(config, start) if config.beta else None
        self.rollouts: list[Rollout] = []
        """Those of the last step in this process, and in `rewards_PG` their rewards."""
        self.sampler_gap = 0.0
        """Largest difference between their log-probabilities when sampled and when trained on."""

    def count(self, batch: Batch) -> int:
        """Return the number of completions, or for 'dapo' of their tokens."""
        if self.config.loss_type == "dapo":
            return super().count(batch)
        return batch.targets_BT.shape[0] * batch.targets_BT.shape[1]

    def prepare(self, model: LanguageModel, batch: Batch) -> Batch:
        """Sample a group of completions for each prompt; return them with their advantages."""
        config = self.config
        prompts = [self.train[i] for i in batch.extras["prompt"].tolist()]
        seeds = [seed_of(config.seed, draw) for draw in batch.extras["draw"].tolist()]
        self.rollouts, self.rewards_PG = self.roll_out(model, prompts, seeds, config.group_size)
        self.sampler_gap = 0.0
        shape = (*self.rewards_PG.shape, -1)
        ids_PGT, targets_PGT, logprobs_PGT = (
            tensor_NT.view(shape) for tensor_NT in padded_rows(self.rollouts)
        )
        advantages_PG = group_advantages(self.rewards_PG, config.scale_rewards)
        extras = {"advantages": advantages_PG, "logprobs": logprobs_PGT}
        return Batch(ids_PGT, targets_PGT, extras=extras)

    def roll_out(
        self,
        model: LanguageModel,
        prompts: Sequence[Prompt],
        seeds: Sequence[int],
        n: int,
        sampling: SamplingConfig = UNBIASED,
    ) -> tuple[list[Rollout], Tensor]:
        """Return n completions of each prompt, and their rewards (P, n) in float64."""
        ids = [prompt.ids for prompt in prompts]
        stop, longest = self.tokenizer.stop_tokens, self.config.max_new_tokens
        rollouts = roll_out(model, ids, n, longest, seeds, stop, sampling)
        rewards = [
            self.reward(prompts[i // n].text, rollout.text(self.tokenizer))
            for i, rollout in enumerate(rollouts)
        ]
        return rollouts, torch.tensor(rewards, dtype=torch.float64).view(-1, n)

    def loss(self, engine: nn.Module, batch: Batch) -> Tensor:
        """Return the mean loss of a micro-batch over what `count` counts.

        Groups of equal rewards count in the mean, but have no gradient, not even of the divergence.
        The model computes none of them but the first group, because a wrapper for several processes
        must see a computation.
        """
        config, advantages_PG = self.config, batch.extras["advantages"]
        varies_P = advantages_PG.any(dim=1)
        taken_P = varies_P.clone()
        taken_P[0] = True
        ids_NT, targets_NT, sampled_NT = (
            tensor_PGT[taken_P].flatten(0, 1)
            for tensor_PGT in (batch.ids_BT, batch.targets_BT, batch.extras["logprobs"])
        )
        logprobs_NT: Tensor = -engine(ids_NT, targets_NT, reduction="none")
        is_target_NT = targets_NT != IGNORED
        gap = (logprobs_NT.detach() - sampled_NT)[is_target_NT].abs().amax().item()
        self.sampler_gap = max(self.sampler_gap, gap)
        reference_NT = None
        if self.reference is not None:
            with torch.no_grad():
                reference = self.reference.to(ids_NT.device)
                reference_NT = -reference(ids_NT, targets_NT, reduction="none")
        losses_NT = token_losses(
            logprobs_NT, advantages_PG[taken_P].flatten(), reference_NT, config.beta
        )
        varies_N1 = varies_P[taken_P].repeat_interleave(config.group_size)[:, None]
        total = sum_of_losses(
            losses_NT, is_target_NT, varies_N1, config.loss_type, config.max_new_tokens
        )
        return total / self.count(batch)

    def measured(self, world: World) -> dict[str, float]:
        """Return figures of the last step's completions."""
        gap = max(world.gather(self.sampler_gap))
        return figures(self.rollouts, self.rewards_PG, world) | {"sampler_gap": gap}

    def evaluate(self, model: LanguageModel, world: World, *, whole: bool) -> Evaluation:
        """Answer val prompts, once at temperature 1 and once greedily, from the same seeds always.

        The loss is 1 minus the mean reward at temperature 1, which is what GRPO raises.
        """
        prompts, seeds = val_share(self.config, self.val, world, whole=whole)
        sampled = figures(*self.roll_out(model, prompts, seeds, 1), world)
        greedy = figures(*self.roll_out(model, prompts, seeds, 1, GREEDY), world)
        measured = {f"val_{name}": sampled[name] for name in sampled if name != "equal_groups"}
        measured["val_greedy_reward"] = greedy["reward"]
        summary = (
            f"reward {sampled['reward']:.3f} on val prompts, {greedy['reward']:.3f} greedily; "
            f"{sampled['stop_rate']:.1%} ended, entropy {sampled['entropy']:.3f} nats/token"
        )
        return Evaluation(1 - sampled["reward"], measured, summary)


def figures(rollouts: Sequence[Rollout], rewards_PG: Tensor, world: World) -> dict[str, float]:
    """Return means over the rollouts of all processes.

    entropy: the mean of -log p of the tokens, in nats, which estimates the entropy at temperature
    1. equal_groups: the share of the groups without any difference to learn from.
    """
    is_equal_P = rewards_PG.amax(1) == rewards_PG.amin(1)
    sums = [
        len(rollouts), sum(len(rollout.ids) for rollout in rollouts), len(rewards_PG),
        float(rewards_PG.sum()), sum(rollout.finished for rollout in rollouts),
        -sum(sum(rollout.logprobs) for rollout in rollouts), float(is_equal_P.sum()),
    ]  # fmt: skip
    total = torch.tensor(sums, dtype=torch.float64, device=world.device)
    n, n_tokens, n_groups, reward, n_finished, surprise, n_equal = world.sum(total).tolist()
    return {
        "reward": reward / n,
        "stop_rate": n_finished / n,
        "length": n_tokens / n,
        "entropy": surprise / n_tokens,
        "equal_groups": n_equal / n_groups,
    }
