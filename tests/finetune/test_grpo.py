"""GRPO: its gradients by hand, its rollouts, and kill and resume."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from grpo_toy import (
    MAX_NEW_TOKENS,
    REWARDS,
    ROLLOUTS,
    batch_of,
    objective,
    prompts_file,
    settings,
)
from killing import check_killed_and_resumed
from rich.console import Console

from gptfast.data.batch import IGNORED, Batch
from gptfast.finetune.grpo import GRPO, figures, prepare
from gptfast.finetune.grpo_losses import group_advantages, token_losses
from gptfast.model.base import LanguageModel
from gptfast.model.folder import load_float_model
from gptfast.train.distributed import SINGLE_PROCESS
from gptfast.train.run import run
from gptfast.train.step import accumulate_gradients, gradient_scaler
from measured import measured


@pytest.fixture
def policy(chat_base: Path) -> LanguageModel:
    model, _ = load_float_model(chat_base, "a test")
    return model


def gradients(model: LanguageModel) -> torch.Tensor:
    found = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    return torch.cat(found)


# ---- the formulas --------------------------------------------------------------------------------


def test_advantages_by_hand() -> None:
    rewards = torch.tensor([[1.0, 0.0, 0.0, 1.0], [3.0, 0.0, 0.0, 0.0], [0.1, 0.1, 0.1, 0.1]])
    by_hand = [[0.5, -0.5, -0.5, 0.5], [2.25, -0.75, -0.75, -0.75], [0.0, 0.0, 0.0, 0.0]]
    assert group_advantages(rewards.double(), scale=False).tolist() == by_hand
    scaled = group_advantages(rewards.double(), scale=True)
    assert scaled[0, 0].item() == pytest.approx(0.5 / (math.sqrt(1 / 3) + 1e-4), rel=1e-6)
    assert scaled[1, 0].item() == pytest.approx(2.25 / (1.5 + 1e-4), rel=1e-6)
    assert scaled[2].tolist() == [0.0] * 4


def test_equal_rewards_have_no_advantage_whatever_their_rounding() -> None:
    rewards = torch.tensor([[0.1] * 3, [1 / 3] * 3, [1e17 + 1] * 3], dtype=torch.float64)
    for scale in (False, True):
        assert not group_advantages(rewards, scale).any()


def test_the_divergence_and_its_gradient_are_exact_on_average() -> None:
    """Summed over a whole vocabulary, instead of samples of it."""
    logits_V = torch.tensor([0.3, -1.0, 2.0, 0.0], dtype=torch.float64, requires_grad=True)
    reference_V = torch.tensor([1.0, 0.5, -0.2, 0.1], dtype=torch.float64).log_softmax(0)
    logprobs_V = logits_V.log_softmax(0)
    divergence = (logprobs_V.exp() * (logprobs_V - reference_V)).sum()
    (expected,) = torch.autograd.grad(divergence, logits_V, retain_graph=True)
    losses_1V = token_losses(logprobs_V[None], torch.zeros(1), reference_V[None], beta=1.0)
    mean = (logprobs_V.exp().detach() * losses_1V[0]).sum()
    (found,) = torch.autograd.grad(mean, logits_V)
    torch.testing.assert_close(mean, divergence)
    torch.testing.assert_close(found, expected)


def test_the_gradient_is_the_advantage_times_that_of_the_log_probability() -> None:
    logprobs = torch.tensor([[-1.0, -2.0], [-0.1, -3.0]], requires_grad=True)
    losses = token_losses(logprobs, torch.tensor([0.5, -0.25]), None, 0.0)
    assert losses.tolist() == [[-0.5, -0.5], [0.25, 0.25]]  # the ratio is 1, bitwise
    losses.sum().backward()
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == [[-0.5, -0.5], [0.25, 0.25]]


# ---- the objective -------------------------------------------------------------------------------


def test_the_end_token_is_trained_and_the_prompt_is_not(
    chat_base: Path, tmp_path: Path, policy: LanguageModel
) -> None:
    grpo = objective(settings(chat_base, tmp_path))
    batch = batch_of(ROLLOUTS, REWARDS, scale=False)
    ended = [[bool((row == 4).any()) for row in group] for group in batch.targets_BT]
    assert ended == [[True, False, True, True], [True, True, True, True]]
    n_targets = [int((row != IGNORED).sum()) for row in batch.targets_BT.flatten(0, 1)]
    assert n_targets == [len(rollout.ids) for rollout in ROLLOUTS]
    # A group whose only difference is when it ends: the logit of the end token must move.
    logits = policy(batch.ids_BT.flatten(0, 1)).detach().requires_grad_()

    def engine(ids: torch.Tensor, targets: torch.Tensor, reduction: str) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(
            logits.transpose(1, 2), targets, reduction=reduction
        )

    grpo.loss(engine, batch).backward()  # type: ignore[arg-type, no-untyped-call]
    assert logits.grad is not None
    is_end = batch.targets_BT.flatten(0, 1) == 4
    assert is_end.sum() == 7
    assert (logits.grad[is_end][:, 4] != 0).all()
    assert not logits.grad[batch.targets_BT.flatten(0, 1) == IGNORED].any()
    # By hand, for the completion [4] of the first group: -A (1 - p) / (N max_new_tokens).
    p = logits[2, 5].softmax(-1)[4].item()
    advantage = 0.0 - 1.25 / 4
    by_hand = -advantage * (1 - p) / (8 * MAX_NEW_TOKENS)
    assert logits.grad[2, 5, 4].item() == pytest.approx(by_hand, rel=1e-4)


@pytest.mark.parametrize("loss_type", ["grpo", "dapo", "dr_grpo"])
def test_a_group_of_equal_rewards_has_no_gradient_not_even_of_the_divergence(
    chat_base: Path, tmp_path: Path, policy: LanguageModel, loss_type: str
) -> None:
    policy.wte.weight.data *= 1.1  # otherwise the divergence is at its minimum
    grpo = objective(settings(chat_base, tmp_path, beta=0.5, loss_type=loss_type))
    equal = batch_of(ROLLOUTS, [[1.0] * 4, [0.1] * 4], scale=False)
    grpo.loss(policy, equal).backward()  # type: ignore[no-untyped-call]
    assert not gradients(policy).any()
    for position in (0, 1):  # the group that differs alone has a gradient, and stays the same share
        rewards = [REWARDS[i] if i == position else [1.0] * 4 for i in (0, 1)]
        grpo.loss(policy, batch_of(ROLLOUTS, rewards, scale=False)).backward()  # type: ignore[no-untyped-call]
        found = gradients(policy)
        alone = batch_of(ROLLOUTS, rewards, scale=False).split(1)[position]
        share = grpo.count(alone) / grpo.count(batch_of(ROLLOUTS, rewards, scale=False))
        (grpo.loss(policy, alone) * share).backward()  # type: ignore[no-untyped-call]
        torch.testing.assert_close(found, gradients(policy), atol=1e-6, rtol=1e-4)
        assert found.abs().max() > 1e-3


@pytest.mark.parametrize("loss_type", ["grpo", "dapo", "dr_grpo"])
def test_micro_batches_have_the_gradients_of_the_whole(
    chat_base: Path, tmp_path: Path, policy: LanguageModel, loss_type: str
) -> None:
    grpo = objective(settings(chat_base, tmp_path, beta=0.04, loss_type=loss_type))
    batch = batch_of(ROLLOUTS, REWARDS, scale=False)
    scaler = gradient_scaler("float32", torch.device("cpu"))
    found = []
    for size in (1, 2):
        loss = accumulate_gradients(policy, batch, grpo, scaler, micro_batch_size=size)
        found.append((loss, gradients(policy)))
    torch.testing.assert_close(found[0], found[1], atol=1e-6, rtol=1e-4)


def test_prepared_rollouts_are_on_policy_and_repeat(
    chat_base: Path, tmp_path: Path, policy: LanguageModel, reward: str
) -> None:
    data = prompts_file(tmp_path)
    config = settings(chat_base, tmp_path / "run", reward=reward, prompts=data)
    task = prepare(config, Console(quiet=True))
    grpo = task.objective
    assert isinstance(grpo, GRPO)
    drawn = task.source.next_batch()
    batch = grpo.prepare(policy, drawn)
    assert batch.ids_BT.shape[:2] == batch.extras["advantages"].shape == (2, 4)
    grpo.loss(policy, batch)
    assert 0 < grpo.sampler_gap < 1e-5  # of the sampled tokens, the ends included
    again = grpo.prepare(policy, drawn)
    for one, other in ((batch, again), (batch.extras, again.extras)):
        for name in vars(batch) if isinstance(one, Batch) else one:
            values = [getattr(b, name) if isinstance(b, Batch) else b[name] for b in (one, other)]
            assert name in ("document_starts_BT", "extras") or torch.equal(*values), name
    # Each process gets the completions that a single process gives to its prompts.
    second = grpo.prepare(policy, drawn.share(1, 2))
    T = second.ids_BT.shape[2]
    assert torch.equal(second.ids_BT[0], batch.ids_BT[1, :, :T])
    batch.extras["logprobs"][0, 0, batch.targets_BT[0, 0] != IGNORED] -= 0.5
    grpo.loss(policy, batch)
    assert grpo.measured(SINGLE_PROCESS)["sampler_gap"] == pytest.approx(0.5, abs=1e-4)


def test_figures_by_hand() -> None:
    rewards = torch.tensor([REWARDS[0], [0.5] * 4], dtype=torch.float64)
    found = figures(ROLLOUTS, rewards, SINGLE_PROCESS)
    assert found == {
        "reward": 3.25 / 8, "stop_rate": 7 / 8, "length": 27 / 8, "entropy": 0.0,
        "equal_groups": 0.5,
    }  # fmt: skip


# ---- whole runs ----------------------------------------------------------------------------------


def arguments(chat_base: Path, tmp_path: Path, reward: str) -> list[str]:
    values = {
        "model": chat_base, "reward": reward, "prompts": prompts_file(tmp_path), "batch-size": 4,
        "group-size": 4, "max-new-tokens": 8, "max-steps": 20, "eval-interval": 5,
        "eval-windows": 2, "warmup-steps": 2, "learning-rate": 3e-3, "device": "cpu",
    }  # fmt: skip
    return ["grpo", *(word for name, value in values.items() for word in (f"--{name}", str(value)))]


def test_a_run_raises_its_reward_and_logs_figures(
    chat_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reward is the share of an easy letter; a run must learn to write it.

    Rewards may have any scale, so a loss that jumps by hundreds is no fault.
    """
    monkeypatch.setattr("gptfast.train.recovery.RECENT", 3)
    (tmp_path / "easy_rewards.py").write_text(
        "def e(_, completion): return 1000 * completion.count('e') / max(len(completion), 4)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    config = settings(
        chat_base, tmp_path / "run", reward="easy_rewards:e", prompts=prompts_file(tmp_path),
        batch_size=8, group_size=8, max_steps=20, eval_interval=20, learning_rate=1e-2,
        warmup_steps=2, beta=1.0, val_fraction=0.5,
    )  # fmt: skip
    run(config, prepare)
    first, *_, last = [m for m in measured(tmp_path / "run") if "val_loss" in m]
    assert last["val_reward"] > first["val_reward"] + 200
    assert last["val_loss"] == 1 - last["val_reward"]
    assert last["val_entropy"] < first["val_entropy"]
    steps = [m for m in measured(tmp_path / "run") if "grad_norm" in m]
    assert [m["step"] for m in steps] == [10, 20]
    assert all(0 < m["sampler_gap"] < 1e-5 for m in steps)
    assert steps[-1]["reward"] > steps[0]["reward"]


@pytest.mark.parametrize("n_processes", [1, 2])
def test_killed_it_resumes_bitwise_with_its_rollouts(
    chat_base: Path, tmp_path: Path, reward: str, n_processes: int
) -> None:
    argv = arguments(chat_base, tmp_path, reward)
    check_killed_and_resumed(argv, tmp_path, n_processes=n_processes, step=13)
