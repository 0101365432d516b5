"""Rollouts come from the model's own distribution, repeat bitwise, and keep the stop token."""

from __future__ import annotations

import pytest
import torch

from gptfast.errors import UserError
from gptfast.model import ModelConfig, build_model, rust_step
from gptfast.model.base import LanguageModel
from gptfast.sample.rollouts import Rollout, roll_out, seed_of
from gptfast.tokenizer import CharTokenizer

N_VOCAB, STOP = 8, 7
PROMPTS = [[1, 2, 3], [4], [1, 2, 3], [5, 6]]


@pytest.fixture
def model() -> LanguageModel:
    torch.manual_seed(0)
    model = build_model(ModelConfig(N_VOCAB, block_size=12, n_layer=2, n_head=2, n_embd=16))
    for parameter in model.parameters():
        parameter.data *= 3  # far from uniform
    return model.train()


def rollouts(model: LanguageModel, order: list[int], n: int = 6) -> list[Rollout]:
    seeds = [seed_of(1, i) for i in order]
    return roll_out(model, [PROMPTS[i] for i in order], n, 7, seeds, [STOP])


def test_log_probabilities_are_those_of_the_trained_distribution(model: LanguageModel) -> None:
    found = rollouts(model, [0, 1, 2, 3])
    assert len(found) == 24
    assert {one.finished for one in found} == {True, False}
    for one in found:
        assert one.finished == (one.ids[-1] == STOP)
        assert STOP not in one.ids[:-1]
        assert one.finished or len(one.ids) == 7
        ids = [*one.prompt_ids, *one.ids]
        model.eval()
        with torch.no_grad():
            logits_TV = model(torch.tensor([ids[:-1]]))[0].double()
        logprobs_TV = logits_TV.log_softmax(-1)[len(one.prompt_ids) - 1 :]
        expected = [logprobs_TV[t, id].item() for t, id in enumerate(one.ids)]
        assert one.logprobs == pytest.approx(expected, abs=1e-5)


def test_the_first_token_is_drawn_as_often_as_its_probability(model: LanguageModel) -> None:
    found = roll_out(model, [PROMPTS[0]], 4000, 1, [seed_of(5)], [STOP])
    counts_V = torch.bincount(torch.tensor([one.ids[0] for one in found]), minlength=N_VOCAB)
    with torch.no_grad():
        probabilities_V = model.eval()(torch.tensor([PROMPTS[0]]))[0, -1].softmax(-1)
    torch.testing.assert_close(counts_V / 4000, probabilities_V, atol=0.03, rtol=0)


def test_neither_order_nor_neighbours_change_a_rollout(model: LanguageModel) -> None:
    all_four = rollouts(model, [0, 1, 2, 3])
    assert rollouts(model, [0, 1, 2, 3]) == all_four
    assert rollouts(model, [3]) == all_four[18:]
    assert rollouts(model, [2, 0]) == all_four[12:18] + all_four[:6]
    assert all_four[:6] != all_four[12:18]  # one prompt, but another seed
    assert model.training


def test_a_change_of_the_weights_is_noticed(model: LanguageModel) -> None:
    before = rollouts(model, [0])
    cache = model.eval().new_cache(1)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    model(torch.tensor([PROMPTS[0]]), torch.tensor([[2, 3, 4]])).backward()
    optimizer.step()
    assert rust_step.why_not(model, cache) is None  # rollouts take the fast path
    after = rollouts(model, [0])
    assert [one.logprobs[0] for one in before] != [one.logprobs[0] for one in after]
    with torch.no_grad():
        logprobs_V = model(torch.tensor([PROMPTS[0]]))[0, -1].log_softmax(-1)
    for one in after:
        assert one.logprobs[0] == pytest.approx(logprobs_V[one.ids[0]].item(), abs=1e-5)


def test_a_text_has_no_stop_token() -> None:
    tokenizer = CharTokenizer("abc", ["<|endoftext|>"])
    assert Rollout([0], [1, 2, 3], [0.0] * 3, finished=True).text(tokenizer) == "bc"
    assert Rollout([0], [1, 2], [0.0] * 2, finished=False).text(tokenizer) == "bc"
    padded = Rollout([0], [1, 5, 3], [0.0] * 3, finished=True)  # 5: padding of the model's rows
    assert padded.text(tokenizer) == "b\ufffd"


def test_a_completion_that_does_not_fit_is_refused(model: LanguageModel) -> None:
    roll_out(model, [[1] * 6], 1, 7, [0], [])
    with pytest.raises(UserError, match=r"context 12: give shorter .* max_new_tokens of at most 7"):
        roll_out(model, [[1] * 6], 1, 8, [0], [])
