"""The losses and gradients of GRPO are TRL's, with the same weights and the same completions."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from grpo_toy import MAX_NEW_TOKENS, REWARDS, ROLLOUTS, batch_of, objective, settings
from torch.nn.utils.rnn import pad_sequence

from gptfast.model.folder import load_float_model

trl = pytest.importorskip("trl", reason="trl needs Python 3.11")


@pytest.fixture(scope="module")
def trainer(chat_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    import datasets
    from transformers import AutoTokenizer, GPT2LMHeadModel

    tokenizer = AutoTokenizer.from_pretrained(chat_base)
    tokenizer.pad_token = "<|endoftext|>"
    with warnings.catch_warnings(action="ignore"):  # of TRL's own options
        options = trl.GRPOConfig(
            output_dir=str(tmp_path_factory.mktemp("trl")), use_cpu=True, bf16=False, report_to=[],
            per_device_train_batch_size=4, num_generations=4, max_completion_length=MAX_NEW_TOKENS,
        )  # fmt: skip
        return trl.GRPOTrainer(
            model=GPT2LMHeadModel.from_pretrained(chat_base), args=options,
            processing_class=tokenizer, reward_funcs=lambda completions, **_: [0.0],
            train_dataset=datasets.Dataset.from_dict({"prompt": ["a"] * 4}),
        )  # fmt: skip


def inputs_of_trl(reference: Any, scale: bool) -> dict[str, torch.Tensor]:
    """Return what TRL makes of the completions.

    The prompts have the same length. TRL would pad shorter ones on the left, and learned positions
    would count the padding.
    """
    prompts_BT = torch.tensor([one.prompt_ids for one in ROLLOUTS])
    answers = [torch.tensor(one.ids) for one in ROLLOUTS]
    rewards = torch.tensor(REWARDS)
    advantages = rewards - rewards.mean(1, keepdim=True)
    if scale:
        advantages /= rewards.std(1, keepdim=True) + 1e-4
    inputs = {
        "prompt_ids": prompts_BT,
        "prompt_mask": torch.ones_like(prompts_BT),
        "completion_ids": pad_sequence(answers, batch_first=True),
        "completion_mask": pad_sequence(list(map(torch.ones_like, answers)), batch_first=True),
        "advantages": advantages.flatten(),
        "num_items_in_batch": torch.tensor(sum(map(len, answers))),
    }
    ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1)
    with torch.no_grad():
        logits = reference(ids).logits
    n = inputs["completion_ids"].shape[1]
    logprobs = logits[:, -n - 1 : -1].log_softmax(-1)
    inputs["ref_per_token_logps"] = logprobs.gather(2, ids[:, -n:, None])[..., 0]
    return inputs


@pytest.mark.parametrize(
    ("loss_type", "beta", "scale"),
    [
        ("dr_grpo", 0.0, False),
        ("dr_grpo", 0.04, False),
        ("dapo", 0.04, False),
        ("grpo", 0.04, True),
    ],
)
def test_loss_and_gradients_are_those_of_trl(
    chat_base: Path, tmp_path: Path, trainer: Any, loss_type: str, beta: float, scale: bool
) -> None:
    from transformers import GPT2LMHeadModel

    # The policy differs from the reference, which is the model of the folder.
    policy, _ = load_float_model(chat_base, "a test")
    reference = GPT2LMHeadModel.from_pretrained(chat_base).eval()
    noise = 0.1 * torch.randn(policy.wte.weight.shape, generator=torch.Generator().manual_seed(1))
    policy.wte.weight.data += noise
    theirs = trainer.model.eval()  # with a forward of TRL's own
    theirs.load_state_dict(reference.state_dict())
    theirs.zero_grad()
    theirs.transformer.wte.weight.data += noise

    config = settings(chat_base, tmp_path, loss_type=loss_type, beta=beta, scale_rewards=scale)
    grpo = objective(config)
    loss = grpo.loss(policy, batch_of(ROLLOUTS, REWARDS, scale))
    loss.backward()  # type: ignore[no-untyped-call]

    trainer.loss_type, trainer.beta = loss_type, beta
    trainer.current_gradient_accumulation_steps = trainer.args.steps_per_generation = 1
    expected = trainer._compute_loss(theirs, inputs_of_trl(reference, scale))
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)
    assert policy.wte.weight.grad is not None
    largest = theirs.transformer.wte.weight.grad.abs().max()
    assert largest > 0.01
    torch.testing.assert_close(
        policy.wte.weight.grad, theirs.transformer.wte.weight.grad, atol=1e-5, rtol=1e-4
    )
