"""DPO, IPO and SimPO: make chosen answers likelier than rejected ones.

Legend: N or B pairs; the axis of length 2 has the chosen answer, then the rejected one.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional as F

from gptfast.data.batch import IGNORED, Batch
from gptfast.data.pairs import EncodedPair, PairSource, as_rows, pair_batch
from gptfast.errors import UserError
from gptfast.finetune.chat_start import open_pair_start
from gptfast.finetune.evaluation import standard_error
from gptfast.finetune.settings.preferences import DPOConfig
from gptfast.model.base import LanguageModel
from gptfast.model.dropout import eval_mode
from gptfast.system.files import add_folder, remove_leftovers, write_text_atomically
from gptfast.train.checkpoint import has_started
from gptfast.train.distributed import World
from gptfast.train.evaluate import spread
from gptfast.train.objective import Evaluation, Objective, Task

# ---- the losses ----------------------------------------------------------------------------------
# Each returns the loss of each pair, (B,), and the rewards of its two answers, (B, 2). Arguments:
# logprobs_B2, reference_B2: log-probability of each whole answer, its end token included, by the
# trained model and by the reference, in nats; lengths_B2: the number of tokens of each answer.


def dpo_loss(logprobs_B2: Tensor, reference_B2: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """-log sigmoid(r_chosen - r_rejected), where r = beta (log p - log p_reference).

    Rafailov et al., "Direct Preference Optimization" (2023), equation 7.
    """
    rewards_B2 = beta * (logprobs_B2 - reference_B2)
    return -F.logsigmoid(rewards_B2[:, 0] - rewards_B2[:, 1]), rewards_B2


def ipo_loss(
    logprobs_B2: Tensor, reference_B2: Tensor, lengths_B2: Tensor, tau: float
) -> tuple[Tensor, Tensor]:
    """(r_chosen - r_rejected - 1 / (2 tau))^2, where r = (log p - log p_reference) / length.

    Azar et al., "A General Theoretical Paradigm to Understand Learning from Human Preferences"
    (2023), equation 17. It has no lengths; TRL divides by them after asking the authors, and so
    does this.
    """
    rewards_B2 = (logprobs_B2 - reference_B2) / lengths_B2
    return (rewards_B2[:, 0] - rewards_B2[:, 1] - 1 / (2 * tau)) ** 2, rewards_B2


def simpo_loss(
    logprobs_B2: Tensor, lengths_B2: Tensor, beta: float, gamma: float
) -> tuple[Tensor, Tensor]:
    """-log sigmoid(r_chosen - r_rejected - gamma), where r = beta log p / length.

    Meng et al., "SimPO: Simple Preference Optimization with a Reference-Free Reward" (2024),
    equation 6.
    """
    rewards_B2 = beta * logprobs_B2 / lengths_B2
    return -F.logsigmoid(rewards_B2[:, 0] - rewards_B2[:, 1] - gamma), rewards_B2


# ---- the task ------------------------------------------------------------------------------------


def prepare(config: DPOConfig, console: Console) -> Task:
    """Read the pairs. Raises UserError or MissingFileError if they can't be trained on."""
    start, source, described = open_pair_start(config, console)
    new_model = start.new_model(dropout=0.0, ngram_dropout=0.0)
    return start.task(source, DPO(config, source, start.sha256), new_model, [described])


class DPO(Objective):
    """The loss of pairs, in comparison with the starting model, and how often it ranks them right.

    The log-probabilities of the starting model are computed before the first step, and kept in
    training/reference.json.
    """

    def __init__(self, config: DPOConfig, source: PairSource, start_sha256: str) -> None:
        """Raise UserError if a run that resumes has lost what it keeps of the starting model."""
        self.config, self.train, self.val = config, source.pairs, source.val
        self.made_by = {"model_sha256": start_sha256, "data_sha256": source.fingerprint}
        self.reference: list[Tensor] | None = None
        """Log-probabilities of train and val pairs by the starting model, (N, 2) each."""
        if config.loss == "simpo":
            self.reference = [torch.zeros(len(pairs), 2) for pairs in (self.train, self.val)]
        elif has_started(config):
            self.reference = read_reference(config.out, self.made_by)

    def count(self, batch: Batch) -> int:
        """Return the number of pairs."""
        return len(batch)

    def prepare(self, model: LanguageModel, batch: Batch) -> Batch:
        """Add the log-probabilities of the starting model."""
        index_B = batch.extras["index"]
        # The trial step comes before they are known; any number costs as much memory.
        reference_B2 = self.reference[0][index_B] if self.reference else torch.zeros(len(batch), 2)
        return replace(batch, extras=batch.extras | {"reference": reference_B2})

    def loss(self, engine: nn.Module, batch: Batch) -> Tensor:
        """Return the mean loss of the pairs."""
        logprobs_B2 = answer_logprobs(engine, as_rows(batch)).view(-1, 2)
        lengths_B2 = (batch.targets_BT != IGNORED).sum(-1)
        return self.losses(logprobs_B2, batch.extras["reference"], lengths_B2)[0].mean()

    def losses(
        self, logprobs_B2: Tensor, reference_B2: Tensor, lengths_B2: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the losses (B,) and the rewards (B, 2) of the configured method.

        With sft_weight, the loss of a chosen answer's token is added, which keeps it likely (Pang
        et al., "Iterative Reasoning Preference Optimization", 2024, equation 1).
        """
        config, beta = self.config, self.config.resolved_beta
        if config.loss == "ipo":
            losses_B, rewards_B2 = ipo_loss(logprobs_B2, reference_B2, lengths_B2, beta)
        elif config.loss == "simpo":
            losses_B, rewards_B2 = simpo_loss(logprobs_B2, lengths_B2, beta, config.simpo_gamma)
        else:
            losses_B, rewards_B2 = dpo_loss(logprobs_B2, reference_B2, beta)
        return losses_B - config.sft_weight * logprobs_B2[:, 0] / lengths_B2[:, 0], rewards_B2

    def evaluate(self, model: LanguageModel, world: World, *, whole: bool) -> Evaluation:
        """Measure the loss and the accuracy of the rewards on held-out pairs.

        A reward is right if the chosen answer's is higher; equal ones are half right.
        """
        n_rows = self.config.windows_at_a_time(world.size)
        if self.reference is None:  # the first evaluation, of the starting model
            self.reference = [
                pair_logprobs(model, pairs, range(len(pairs)), n_rows, world)
                for pairs in (self.train, self.val)
            ]
            if world.is_main:
                write_reference(self.config.out, self.made_by, self.reference)
        chosen = spread(len(self.val), None if whole else self.config.eval_windows)
        logprobs_N2 = pair_logprobs(model, self.val, chosen, n_rows, world)
        lengths_N2 = torch.tensor([[sum(c) for c in self.val[i].counted] for i in chosen])
        losses_N, rewards_N2 = self.losses(logprobs_N2, self.reference[1][chosen], lengths_N2)
        margins_N = rewards_N2[:, 0] - rewards_N2[:, 1]
        accuracy = ((margins_N.sign() + 1) / 2).mean().item()
        error = standard_error(accuracy, len(chosen))
        loss, margin = losses_N.mean().item(), margins_N.mean().item()
        logprob_chosen, logprob_rejected = logprobs_N2.mean(0).tolist()
        measured = {
            "reward_accuracy": accuracy,
            "reward_accuracy_stderr": error,
            "reward_margin": margin,
            "logprob_chosen": logprob_chosen,
            "logprob_rejected": logprob_rejected,
        }
        summary = (
            f"val loss {loss:.4f}, reward accuracy {accuracy:.1%} ± {error:.1%}, margin "
            f"{margin:.3f}, log p {logprob_chosen:.2f} chosen, {logprob_rejected:.2f} rejected"
        )
        return Evaluation(loss, measured, summary)


def answer_logprobs(engine: nn.Module, batch: Batch) -> Tensor:
    """Return the log-probability of each row's targets together: their sum, (B,), in nats.

    engine: the model, or its wrapper for several processes.
    """
    losses_BT: Tensor = engine(batch.ids_BT, batch.targets_BT, batch.cu_seqlens, reduction="none")
    return -losses_BT.sum(-1)


@torch.no_grad()
def pair_logprobs(
    model: LanguageModel,
    pairs: Sequence[EncodedPair],
    chosen: Sequence[int],
    batch_size: int,
    world: World,
) -> Tensor:
    """Return the log-probabilities of the answers of some pairs, float32 (len(chosen), 2), in nats.

    Every process must call it, and computes a share.
    """
    device = next(model.parameters()).device
    by_length = sorted(range(len(chosen)), key=lambda k: pairs[chosen[k]].length)
    batches = [by_length[i : i + batch_size] for i in range(0, len(by_length), batch_size)]
    logprobs_N2 = torch.zeros(len(chosen), 2, device=device)
    with eval_mode(model):
        # Every process runs the model equally often, because FSDP synchronizes the processes.
        for first in range(0, len(batches), world.size):
            counts = first + world.rank < len(batches)
            places = batches[first + world.rank if counts else first]
            batch = as_rows(pair_batch(pairs, [chosen[k] for k in places])).to(device)
            result_B2 = answer_logprobs(model, batch).view(-1, 2)
            if counts:
                logprobs_N2[places] = result_B2
    return world.sum(logprobs_N2).cpu()


# ---- what is kept of the starting model ----------------------------------------------------------


def write_reference(folder: Path, made_by: dict[str, str], reference: Sequence[Tensor]) -> None:
    """Write training/reference.json into a run's folder. Raises OSError."""
    path = folder / "training" / "reference.json"
    add_folder(path.parent)
    remove_leftovers([path], sole_writer=True)
    train, val = (logprobs_N2.tolist() for logprobs_N2 in reference)
    write_text_atomically(path, json.dumps(made_by | {"train": train, "val": val}))


def read_reference(folder: Path, made_by: dict[str, str]) -> list[Tensor]:
    """Read training/reference.json. Raise UserError if another model or other data made it."""
    path = folder / "training" / "reference.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        is_same = all(content[name] == sha256 for name, sha256 in made_by.items())
        reference = [torch.tensor(content[name]).view(-1, 2) for name in ("train", "val")]
    except (OSError, ValueError, LookupError, TypeError, RuntimeError) as error:
        raise UserError(
            f"{path} can't be read ({error}): it has the starting model's log-probabilities, "
            f"which --resume needs; give --overwrite to start again"
        ) from error
    if not is_same:
        raise UserError(
            f"{path} is of another model or of other pairs than this run's: give --overwrite to "
            f"start again"
        )
    return reference
