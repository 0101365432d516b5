"""`gptfast finetune ppo`: formulas by their definitions, rollouts, learning, and a kill."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from killing import check_killed_and_resumed
from rich.console import Console
from torch import Tensor

from gptfast.data.batch import IGNORED
from gptfast.data.prompts import encode_prompts, user_message
from gptfast.errors import UserError
from gptfast.finetune.__main__ import main, parse_config
from gptfast.finetune.ppo import PPO, prepare
from gptfast.finetune.ppo_losses import advantages, policy_loss, value_loss
from gptfast.finetune.settings.rollouts import PPOConfig
from gptfast.finetune.start import open_start
from gptfast.model import rust_step
from gptfast.model.folder import describe_model, load_model, save_weights
from gptfast.model.heads import ActorCritic, SequenceClassifier, load_classifier
from gptfast.tokenizer import load_tokenizer
from gptfast.tokenizer.chat import read_chat_template, write_chat_template
from gptfast.train.objective import Task
from gptfast.train.step import accumulate_gradients, gradient_scaler
from measured import measured

CPU = torch.device("cpu")

# ---- formulas ------------------------------------------------------------------------------------


def by_definition(
    rewards: list[float], values: list[float], gamma: float, gae_lambda: float
) -> list[float]:
    """Return equation 16 of the paper, term by term, for one rollout."""
    n, v = len(rewards), [*values, 0.0]
    return [
        sum(
            (gamma * gae_lambda) ** (s - t) * (rewards[s] + gamma * v[s + 1] - v[s])
            for s in range(t, n)
        )
        for t in range(n)
    ]  # fmt: skip


@pytest.mark.parametrize(("gamma", "gae_lambda"), [(1, 0.95), (0.9, 0.5), (0.99, 1), (0.7, 0)])
def test_advantages_by_definition(gamma: float, gae_lambda: float) -> None:
    torch.manual_seed(0)
    rewards_BT, values_BT = torch.randn(2, 4, 23, dtype=torch.float64)
    runs = [(0, 23), (5, 17), (22, 23), (0, 1)]
    mask_BT = torch.zeros(4, 23, dtype=torch.bool)
    for row, (start, stop) in zip(mask_BT, runs, strict=True):
        row[start:stop] = True
    found_BT = advantages(rewards_BT, values_BT, mask_BT, gamma, gae_lambda)
    for i, (start, stop) in enumerate(runs):
        expected = by_definition(
            rewards_BT[i, start:stop].tolist(), values_BT[i, start:stop].tolist(), gamma, gae_lambda
        )
        assert found_BT[i, start:stop].tolist() == pytest.approx(expected, abs=1e-10)
    assert not found_BT[~mask_BT].any()


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "has_gradient"),
    [
        (1.0, 2.0, -2.0, True),
        (1.1, 2.0, -2.2, True),
        (1.5, 2.0, -2.4, False),  # no gain from going further
        (0.5, 2.0, -1.0, True),  # but back
        (1.5, -2.0, 3.0, True),
        (0.5, -2.0, 1.6, False),
        (0.9, -2.0, 1.8, True),
    ],
)
def test_the_clipped_surrogate_by_hand(
    ratio: float, advantage: float, loss: float, has_gradient: bool
) -> None:
    old = torch.tensor([-1.3], dtype=torch.float64)
    new = (old + math.log(ratio)).requires_grad_()
    found = policy_loss(new, old, torch.tensor([advantage], dtype=torch.float64), 0.2)
    assert found.item() == pytest.approx(loss, abs=1e-12)
    (gradient,) = torch.autograd.grad(found, new)
    assert gradient.item() == pytest.approx(-ratio * advantage if has_gradient else 0, abs=1e-12)


@pytest.mark.parametrize(
    ("value", "old", "target", "loss", "gradient"),
    [
        (1.1, 1.0, 2.0, 0.405, -0.9),  # within the clip
        (1.5, 1.0, 2.0, 0.32, 0.0),  # clipped to 1.2, which is further off
        (0.5, 1.0, 2.0, 1.125, -1.5),  # clipped to 0.8, but away from the target
        (3.0, 1.0, 2.0, 0.5, 1.0),  # past the target, further than the clip
        (1.0, 1.0, 1.0, 0.0, 0.0),
    ],
)
def test_the_clipped_value_loss_by_hand(
    value: float, old: float, target: float, loss: float, gradient: float
) -> None:
    new = torch.tensor([value], dtype=torch.float64, requires_grad=True)
    olds, targets = (torch.tensor([x], dtype=torch.float64) for x in (old, target))
    found = value_loss(new, olds, targets, 0.2)
    assert found.item() == pytest.approx(loss, abs=1e-12)
    assert torch.autograd.grad(found, new)[0].item() == pytest.approx(gradient, abs=1e-12)


def test_the_gradients_are_those_of_differences() -> None:
    torch.manual_seed(1)
    new, old, advantage, value, target = torch.randn(5, 6, dtype=torch.float64)
    new, value = (x.requires_grad_() for x in (new, value))
    assert torch.autograd.gradcheck(lambda x: policy_loss(x, old, advantage, 0.2), new)
    assert torch.autograd.gradcheck(lambda x: value_loss(x, old, target, 0.2), value)


# ---- rollouts and the objective ------------------------------------------------------------------


@pytest.fixture(scope="module")
def reward_model(chat_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reward model with random weights, which differ enough for its scores to differ."""
    folder = tmp_path_factory.mktemp("reward_model")
    body, tokenizer = load_model(chat_base)
    torch.manual_seed(3)
    model = SequenceClassifier(body.config, ("LABEL_0",))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    describe_model(folder, model, tokenizer)
    save_weights(model, folder / "model.safetensors")
    write_chat_template(folder, read_chat_template(chat_base) or "")
    return folder


@pytest.fixture
def config(chat_base: Path, reward_model: Path, tmp_path: Path) -> PPOConfig:
    prompts = tmp_path / "prompts.jsonl"
    texts = (f"{'Hello ' * (i % 3)}{i}" for i in range(30))
    prompts.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts))
    return PPOConfig(
        model=chat_base, reward_model=reward_model, prompts=prompts, out=tmp_path / "out",
        batch_size=6, max_new_tokens=9, updates_per_rollout=3, unfinished_penalty=0.5,
    )  # fmt: skip


def prepared(config: PPOConfig) -> tuple[Task, PPO, ActorCritic]:
    task = prepare(config, Console(quiet=True))
    model = task.new_model(CPU)
    assert isinstance(task.objective, PPO)
    assert isinstance(model, ActorCritic)
    return task, task.objective, model


def test_answers_are_judged_token_by_token(config: PPOConfig) -> None:
    task, objective, model = prepared(replace(config, max_new_tokens=30))
    torch.nn.init.normal_(model.value.weight)
    with torch.no_grad():  # away from the reference
        model.wte.weight.add_(torch.randn_like(model.wte.weight) * 0.02)
    tokenizer = load_tokenizer(config.model)
    batch = objective.prepare(model, task.source.next_batch())
    assert len(batch) == 6
    judged = objective.answer(model, objective.train, list(range(len(objective.train))))
    assert {one.finished for one in judged.rollouts} == {True, False}
    scorer, _ = load_classifier(config.reward_model)
    reference, _ = load_model(config.model)
    learned = objective.learnable(judged)
    for i, one in enumerate(judged.rollouts):
        ids = torch.tensor([[*one.prompt_ids, *one.ids]])
        n, first = len(one.ids), len(one.prompt_ids) - 1
        with torch.no_grad():
            score = scorer(ids, torch.tensor([ids.shape[1]])).item() - 0.5 * (not one.finished)
            theirs = reference(ids)[0].log_softmax(-1)[first:-1]
            value = (model.hidden(ids) @ model.value.weight.T)[0, first:-1, 0]
        chosen = ids[0, first + 1 :]
        assert judged.scores_B[i].item() == pytest.approx(score, abs=1e-5)
        # The sampler's own log-probabilities are those that are trained on, the end token's too.
        ours = judged.logprobs_BT[i, first : first + n]
        torch.testing.assert_close(ours, torch.tensor(one.logprobs), atol=1e-5, rtol=0)
        reference_T = theirs[torch.arange(n), chosen]
        rewards = -config.kl_penalty * (ours - reference_T)
        rewards[-1] += score
        expected = by_definition(rewards.tolist(), value.tolist(), 1.0, 0.95)
        found = learned.extras["advantages"][i, first : first + n]
        assert found.tolist() == pytest.approx(expected, abs=1e-4)
        counted = (learned.targets_BT[i] != IGNORED).nonzero().flatten().tolist()
        assert counted == list(range(first, first + n))
        assert learned.targets_BT[i, first + n - 1] == one.ids[-1]
        if one.finished:
            assert one.ids[-1] in tokenizer.stop_tokens


def test_the_first_update_has_a_ratio_of_1_and_moves_the_end_token(config: PPOConfig) -> None:
    task, objective, model = prepared(replace(config, max_new_tokens=30))
    batch = objective.prepare(model, task.source.next_batch())
    logprobs_BT = model(batch.ids_BT, batch.targets_BT)[..., 0]
    assert torch.equal(logprobs_BT, batch.extras["logprobs"])
    stops = torch.tensor(sorted(task.tokenizer.stop_tokens))
    is_end_BT = torch.isin(batch.targets_BT, stops)
    assert is_end_BT.any()
    logprobs_BT.retain_grad()
    losses_BT = policy_loss(logprobs_BT, batch.extras["logprobs"], batch.extras["advantages"], 0.2)
    losses_BT.sum().backward()
    assert logprobs_BT.grad is not None
    assert logprobs_BT.grad[is_end_BT].abs().min() > 0
    assert not logprobs_BT.grad[batch.targets_BT == IGNORED].any()


def test_some_steps_learn_from_the_same_answers_then_new_ones_are_sampled(
    config: PPOConfig,
) -> None:
    task, objective, model = prepared(config)
    batches = []
    for _ in range(7):
        batches.append(objective.prepare(model, task.source.next_batch()))
        with torch.no_grad():
            model.wte.weight.mul_(1.05)  # as an update would
    assert [batch is batches[0] for batch in batches] == [True] * 3 + [False] * 4
    assert batches[3] is batches[5] is not batches[6]
    # A process that holds other rows has other answers, whatever the number of processes.
    share = replace(task, source=prepare(config, Console(quiet=True)).source)
    _, alone, model = prepared(config)
    batch = alone.prepare(model, share.source.next_batch().share(1, 2))
    whole = batches[0].ids_BT[1::2]
    width = min(batch.ids_BT.shape[1], whole.shape[1])
    assert torch.equal(batch.ids_BT[:, :width], whole[:, :width])


def test_micro_batches_have_the_gradients_of_the_batch(config: PPOConfig) -> None:
    task, objective, model = prepared(config)
    batch = objective.prepare(model, task.source.next_batch())
    gradients: list[list[Tensor | None]] = []
    for size in (6, 2, 1):
        model.zero_grad()
        scaler = gradient_scaler("float32", CPU)
        loss = accumulate_gradients(model, batch, objective, scaler, micro_batch_size=size)
        gradients.append([loss, *(p.grad for p in model.parameters())])
    for others in gradients[1:]:
        torch.testing.assert_close(others, gradients[0], atol=1e-6, rtol=1e-4)


def test_answers_leave_no_trace_in_the_counts_of_experts(config: PPOConfig) -> None:
    """Only the tokens that are trained on decide how the load of experts is balanced."""
    _, objective, _ = prepared(config)
    sizes = replace(
        objective.reference.config, n_expert=4, expert_balance="bias", bias=False, n_hidden=32
    )
    model = ActorCritic(sizes).train()
    objective.answer(model, objective.train[:2], [1, 2])
    assert model.training
    assert not any(moe.chosen_E.any() for moe in model.experts())


def test_rust_writes_the_answers_of_a_policy_with_a_critic(config: PPOConfig) -> None:
    _, _, model = prepared(config)
    assert rust_step.why_not(model.eval(), model.new_cache(2)) is None


def test_the_divergence_is_exact_on_average(config: PPOConfig) -> None:
    """Of one token from one prompt, it can be computed over the whole vocabulary."""
    _, objective, model = prepared(replace(config, max_new_tokens=1))
    with torch.no_grad():
        model.wte.weight.add_(torch.randn_like(model.wte.weight) * 0.05)
    prompt = objective.train[0]
    judged = objective.answer(model, [prompt] * 600, list(range(600)))
    sums = judged.sums()
    with torch.no_grad():
        p, q = (m.prefill(prompt.ids, m.new_cache(1), 0) for m in (model, objective.reference))
    exact = torch.nn.functional.kl_div(
        q.log_softmax(-1), p.log_softmax(-1), log_target=True, reduction="sum"
    ).item()
    assert sums[:2] == [600, 600]
    assert sums[5] / 600 == pytest.approx(exact, rel=0.2)


# ---- whole runs ----------------------------------------------------------------------------------


def arguments(config: PPOConfig, *further: str) -> list[str]:
    return [
        "ppo", "--model", str(config.model), "--reward-model", str(config.reward_model),
        "--prompts", str(config.prompts), "--max-new-tokens", "9", "--batch-size", "6",
        "--updates-per-rollout", "3", "--warmup-steps", "2", "--device", "cpu", *further,
    ]  # fmt: skip


def test_it_raises_the_score_and_leaves_a_language_model(config: PPOConfig) -> None:
    """Answers with an end token have a much higher score: the policy learns to write it."""
    further = ("--max-steps", "60", "--batch-size", "24", "--learning-rate", "5e-3",
               "--eval-interval", "30", "--kl-penalty", "0.01", "--val-fraction", "0.5",
               "--unfinished-penalty", "5")  # fmt: skip
    assert main([*arguments(config, *further), "--out", str(config.out)]) == 0
    before = next(m for m in measured(config.out) if "val_score" in m)
    assert before["val_kl"] == pytest.approx(0, abs=1e-9)
    after = json.loads((config.out / "run.json").read_text())["result"]["measured"]
    assert before["val_stop_rate"] < 0.3 < 0.5 < after["val_stop_rate"]
    assert after["val_score"] > before["val_score"] + 2
    assert after["val_kl"] > 0.01
    model, _ = load_model(config.out)
    assert type(model).__name__ == "GPT"


@pytest.mark.integration
@pytest.mark.parametrize(("n_processes", "rank"), [(2, "0"), (1, "2")])
def test_killed_between_updates_on_the_same_answers_it_resumes_bitwise(
    n_processes: int, rank: str, config: PPOConfig, tmp_path: Path
) -> None:
    """The checkpoint of step 4 is between the second update on its answers and the third."""
    further = ("--max-steps", "8", "--eval-interval", "4", "--learning-rate", "1e-3",
               "--lora-rank", rank)  # fmt: skip
    check_killed_and_resumed(arguments(config, *further), tmp_path, n_processes=n_processes, step=5)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"max_new_tokens": 60}, "none of .* prompts has at most 4 tokens, which leave room for"),
        ({"clip": 0.0}, "clip is 0.0: expected more than 0"),
        ({"gamma": 1.5}, "gamma is 1.5: expected from 0 to 1"),
        ({"parallel": "fsdp"}, "parallel is 'fsdp': expected 'ddp', as each process samples"),
        ({"dtype": "bfloat16"}, "dtype is 'bfloat16': expected 'float32'"),
    ],
)
def test_mistakes_are_refused(change: dict[str, object], complaint: str, config: PPOConfig) -> None:
    with pytest.raises(UserError, match=complaint):
        prepare(replace(config, **change), Console(quiet=True))  # type: ignore[arg-type]


def test_no_task_brings_prompts() -> None:
    with pytest.raises(UserError, match=r"Missing .*--prompts"):
        parse_config("ppo", ["--model", "m", "--reward-model", "r", "--out", "o"])


def test_an_empty_prompt_needs_a_chat_template(config: PPOConfig) -> None:
    start = open_start(config)
    prompts = [user_message("Hello"), user_message("")]
    assert all(
        prompt.ids for prompt in encode_prompts(prompts, start.tokenizer, start.chat_template)
    )
    with pytest.raises(UserError, match="a prompt is empty: without a chat template"):
        encode_prompts(prompts, start.tokenizer, None)


def test_a_model_that_can_not_judge_is_refused(config: PPOConfig, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a language model: expected a classifier"):
        prepare(replace(config, reward_model=config.model), Console(quiet=True))
    scorer, tokenizer = load_classifier(config.reward_model)
    other = tmp_path / "other"
    describe_model(other, scorer, tokenizer)
    save_weights(scorer, other / "model.safetensors")
    with pytest.raises(UserError, match="has another chat template than"):
        prepare(replace(config, reward_model=other), Console(quiet=True))
