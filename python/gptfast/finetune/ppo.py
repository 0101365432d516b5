"""PPO: raise the score that a reward model gives to the policy's own answers.

Schulman et al., "Proximal Policy Optimization Algorithms" (2017); for language models, Ouyang et
al., "Training language models to follow instructions with human feedback" (2022).

Legend: B rollouts, T time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn

from gptfast.data.batch import IGNORED, Batch
from gptfast.data.prompts import Prompt, prompt_source
from gptfast.data.shuffled import fingerprint_of
from gptfast.errors import UserError
from gptfast.finetune.ppo_losses import advantages, policy_loss, value_loss
from gptfast.finetune.prompt_start import open_prompt_start, val_share
from gptfast.finetune.settings.rollouts import PPOConfig
from gptfast.finetune.start import Start, load_reference
from gptfast.model.adapter_folder import weights_sha256
from gptfast.model.base import LanguageModel
from gptfast.model.dropout import eval_mode
from gptfast.model.heads import ActorCritic, SequenceClassifier, load_classifier, score_texts
from gptfast.sample.rollouts import Rollout, padded_rows, roll_out, seed_of
from gptfast.tokenizer.chat import read_chat_template
from gptfast.train.distributed import World
from gptfast.train.objective import Evaluation, Objective, Task


def prepare(config: PPOConfig, console: Console) -> Task:
    """Read the prompts and the models. Raises UserError or MissingFileError."""
    start, train, val, notes = open_prompt_start(config, None, n_unread=0)
    longest = max(len(prompt.ids) for prompt in [*train, *val])
    reward_model = load_reward_model(config, start, longest + config.max_new_tokens)
    reward_sha256 = weights_sha256(config.reward_model)
    ids = [[prompt.ids for prompt in prompts] for prompts in (train, val)]
    fingerprint = fingerprint_of(ids, start.tokenizer.fingerprint, start.sha256, reward_sha256)
    repeats = config.updates_per_rollout
    return start.task(
        prompt_source(train, config.batch_size, config.seed, fingerprint, repeats),
        PPO(config, start, train, val, reward_model, load_reference(config, start)),
        start.new_model(ActorCritic, dropout=0.0, ngram_dropout=0.0),
        notes,
        reward_model_sha256=reward_sha256,
    )


def load_reward_model(config: PPOConfig, start: Start, n_tokens: int) -> SequenceClassifier:
    """Return the reward model, frozen. Raises UserError if it can't score the policy's answers.

    n_tokens: most tokens of a prompt and its answer.
    """
    folder = config.reward_model
    model, tokenizer = load_classifier(folder)
    if len(model.labels) != 1:
        raise UserError(
            f"the model in {folder} has {len(model.labels)} labels: expected one, as of a reward "
            f"model that `gptfast finetune reward` makes"
        )
    if tokenizer.fingerprint != start.tokenizer.fingerprint:
        raise UserError(
            f"the reward model in {folder} has another tokenizer than {config.model}: train it "
            f"from that model"
        )
    if read_chat_template(folder) != start.chat_template:
        raise UserError(
            f"the reward model in {folder} has another chat template than {config.model}: train "
            f"it from that model"
        )
    if model.config.block_size < n_tokens or model.config.vocab_size < start.config.vocab_size:
        raise UserError(
            f"the reward model in {folder} has a context of {model.config.block_size} tokens and "
            f"{model.config.vocab_size} ids: expected at least {n_tokens} and "
            f"{start.config.vocab_size}, as the policy has"
        )
    return model.requires_grad_(False)


@dataclass(frozen=True)
class Judged:
    """Answers, and what the policy, the critic, the reference and the reward model say of them."""

    rollouts: list[Rollout]
    ids_BT: Tensor
    targets_BT: Tensor
    logprobs_BT: Tensor
    """Of the policy. As the reference's, 0 where no sampled token is the target."""
    values_BT: Tensor
    reference_BT: Tensor
    scores_B: Tensor
    """The reward model's scores, less the penalty of answers without an end token."""

    @property
    def counts_BT(self) -> Tensor:
        """True where the target is a token of an answer, its end token included."""
        return self.targets_BT != IGNORED

    def sums(self) -> list[float]:
        """Return sums over the answers: number, tokens, score, its square, ended, divergence."""
        gap_BT = (self.reference_BT - self.logprobs_BT).double()
        divergence = (torch.exp(gap_BT) - gap_BT - 1).sum()  # positive; right on average
        scores_B = self.scores_B.double()
        return [
            len(self.rollouts), int(self.counts_BT.sum()), scores_B.sum().item(),
            (scores_B**2).sum().item(), sum(one.finished for one in self.rollouts),
            divergence.item(),
        ]  # fmt: skip


class PPO(Objective):
    """The clipped losses of the policy and of its critic, as means over the answers' tokens.

    `updates_per_rollout` steps in a row learn from the same answers, which checkpoints keep.
    """

    def __init__(
        self,
        config: PPOConfig,
        start: Start,
        train: list[Prompt],
        val: list[Prompt],
        reward_model: SequenceClassifier,
        reference: LanguageModel,
    ) -> None:
        self.config, self.stop_tokens = config, start.tokenizer.stop_tokens
        self.train, self.val = train, val
        self.reward_model, self.reference = reward_model, reference
        self.drawn: list[list[int]] = []
        """Which prompts, drawn at which places, `batch` has the answers to."""
        self.batch: Batch | None = None
        self.last_sums = [0.0] * 6
        """`Judged.sums` of the answers in `batch`."""

    def prepare(self, model: LanguageModel, batch: Batch) -> Batch:
        """Return answers of the policy, with their advantages; the last ones for the same draw."""
        drawn = [batch.extras[name].tolist() for name in ("draw", "prompt")]
        if self.batch is None or drawn != self.drawn:
            prompts = [self.train[i] for i in drawn[1]]
            judged = self.answer(model, prompts, [seed_of(self.config.seed, i) for i in drawn[0]])
            self.drawn, self.batch, self.last_sums = drawn, self.learnable(judged), judged.sums()
        return self.batch

    @torch.no_grad()
    def answer(
        self, model: LanguageModel, prompts: Sequence[Prompt], seeds: Sequence[int]
    ) -> Judged:
        """Sample an answer to each prompt at temperature 1, and judge it."""
        config, device = self.config, next(model.parameters()).device
        ids = [prompt.ids for prompt in prompts]
        rollouts = roll_out(model, ids, 1, config.max_new_tokens, seeds, self.stop_tokens)
        ids_BT, targets_BT, _ = padded_rows(rollouts)
        reference, policy = self.reference.to(device), []
        with eval_mode(model):  # also keeps these tokens out of the counts of experts
            for part in Batch(ids_BT, targets_BT).split(config.windows_at_a_time()):
                x_BT, y_BT = part.ids_BT.to(device), part.targets_BT.to(device)
                reference_BT = -reference(x_BT, y_BT, reduction="none")
                policy.append(torch.cat([model(x_BT, y_BT), reference_BT[..., None]], -1).cpu())
        logprobs_BT, values_BT, reference_BT = torch.cat(policy).unbind(-1)
        texts = [[*one.prompt_ids, *one.ids] for one in rollouts]
        is_cut_B = torch.tensor([float(not one.finished) for one in rollouts])
        scores_B = score_texts(self.reward_model.to(device), texts)
        scores_B = scores_B - config.unfinished_penalty * is_cut_B
        return Judged(rollouts, ids_BT, targets_BT, logprobs_BT, values_BT, reference_BT, scores_B)

    def learnable(self, judged: Judged) -> Batch:
        """Return what the losses need of answers.

        A token's reward is -kl_penalty log(p / p_reference). The last one's is more by the score.
        """
        config, counts_BT = self.config, judged.counts_BT
        rewards_BT = -config.kl_penalty * (judged.logprobs_BT - judged.reference_BT)
        for i, one in enumerate(judged.rollouts):
            rewards_BT[i, len(one.prompt_ids) + len(one.ids) - 2] += judged.scores_B[i]
        advantages_BT = advantages(
            rewards_BT, judged.values_BT, counts_BT, config.gamma, config.gae_lambda
        )
        extras = {
            "logprobs": judged.logprobs_BT,
            "values": judged.values_BT,
            "advantages": advantages_BT,
            "returns": advantages_BT + judged.values_BT,
        }
        return Batch(judged.ids_BT, judged.targets_BT, extras=extras)

    def loss(self, engine: nn.Module, batch: Batch) -> Tensor:
        """Return the mean of policy loss + value_weight * value loss over the tokens."""
        config, old = self.config, batch.extras
        logprobs_BT, values_BT = engine(batch.ids_BT, batch.targets_BT).unbind(-1)
        losses_BT = policy_loss(logprobs_BT, old["logprobs"], old["advantages"], config.clip)
        losses_BT = losses_BT + config.value_weight * value_loss(
            values_BT, old["values"], old["returns"], config.value_clip
        )
        return losses_BT[batch.targets_BT != IGNORED].mean()

    def state_dict(self) -> dict[str, Any] | None:
        """Return the answers that the next step may learn from."""
        if self.batch is None:
            return None
        tensors = {"ids": self.batch.ids_BT, "targets": self.batch.targets_BT, **self.batch.extras}
        return {"drawn": self.drawn, "batch": tensors, "sums": self.last_sums}

    def load_state_dict(self, state: Any) -> None:
        """Restore the answers. Without them, the next step samples new ones."""
        self.drawn, self.batch = [], None
        if state is not None:
            self.drawn, self.last_sums = state["drawn"], state["sums"]
            extras = dict(state["batch"])
            self.batch = Batch(extras.pop("ids"), extras.pop("targets"), extras=extras)

    def measured(self, world: World) -> dict[str, Any]:
        """Return figures of the last step's answers."""
        return figures(self.last_sums, world)

    def evaluate(self, model: LanguageModel, world: World, *, whole: bool) -> Evaluation:
        """Answer val prompts at temperature 1, from the same seeds always.

        The loss is what PPO lowers: -(score - kl_penalty * divergence of the whole answer).
        """
        prompts, seeds = val_share(self.config, self.val, world, whole=whole)
        sums = self.answer(model, prompts, seeds).sums() if prompts else [0.0] * 6
        found = figures(sums, world)
        loss = self.config.kl_penalty * found["kl"] * found["length"] - found["score"]
        summary = (
            f"score {found['score']:.3f} (standard error {found['score_stderr']:.3f}) on val "
            f"prompts, {found['kl']:.4f} nats/token from the reference, {found['stop_rate']:.1%} "
            f"ended"
        )
        return Evaluation(loss, {f"val_{name}": value for name, value in found.items()}, summary)


def figures(sums: Sequence[float], world: World) -> dict[str, float]:
    """Return means over the answers of all processes, of which `sums` are one's `Judged.sums`.

    kl: the divergence of the policy from the reference, in nats per token, estimated by the mean of
    r - log r - 1 with r = p_reference / p (Schulman, "Approximating KL Divergence", 2020).
    """
    total = torch.tensor(sums, dtype=torch.float64, device=world.device)
    n, n_tokens, score, square, n_finished, divergence = world.sum(total).tolist()
    variance = max(square / n - (score / n) ** 2, 0.0)
    return {
        "score": score / n,
        "score_stderr": (variance / n) ** 0.5,
        "kl": divergence / n_tokens,
        "stop_rate": n_finished / n,
        "length": n_tokens / n,
    }
