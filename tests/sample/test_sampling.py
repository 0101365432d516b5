from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from gptfast.errors import UserError
from gptfast.model import GPT, ModelConfig, build_model
from gptfast.sample.config import SamplingConfig
from gptfast.sample.generate import default_prompt, generate, write_sample
from gptfast.sample.sampling import (
    distribution,
    draw,
    min_p_filter,
    top_k_filter,
    top_p_filter,
)
from gptfast.sample.stopping import GrowingText
from gptfast.tokenizer import BPETokenizer, CharTokenizer

# Probabilities 0.5, 0.25, 0.125, 0.125 in the order of ids 2, 0, 1, 3.
LOGITS = torch.tensor([[0.25, 0.125, 0.5, 0.125]]).log()


def kept(logits: torch.Tensor) -> list[int]:
    return torch.nonzero(logits[0] > -math.inf).flatten().tolist()


@pytest.mark.parametrize(
    ("k", "ids"), [(1, [2]), (2, [0, 2]), (3, [0, 1, 2, 3]), (4, [0, 1, 2, 3]), (9, [0, 1, 2, 3])]
)
def test_top_k_keeps_the_k_likeliest_and_ties(k: int, ids: list[int]) -> None:
    assert kept(top_k_filter(LOGITS, k)) == ids


@pytest.mark.parametrize(
    ("p", "ids"),
    [(0.1, [2]), (0.49, [2]), (0.5, [2]), (0.51, [0, 2]), (0.75, [0, 2]), (0.8, [0, 1, 2]),
     (1.0, [0, 1, 2, 3])],
)  # fmt: skip
def test_top_p_keeps_the_fewest_that_reach_p(p: float, ids: list[int]) -> None:
    assert kept(top_p_filter(LOGITS, p)) == ids


def top_p_by_sorting_all(logits: Tensor, p: float) -> Tensor:
    sorted_logits, order = logits.sort(dim=-1, descending=True, stable=True)
    probabilities = logits.softmax(dim=-1).gather(-1, order)
    ends = probabilities.cumsum(dim=-1, dtype=torch.float64)
    outside = torch.cat((torch.zeros_like(ends[..., :1]), ends[..., :-1]), dim=-1) >= p
    sorted_logits = sorted_logits.masked_fill(outside, -torch.inf)
    return torch.empty_like(logits).scatter(-1, order, sorted_logits)


@pytest.mark.parametrize("V", [1, 7, 512, 513, 5000])
@pytest.mark.parametrize("spread", [0.01, 1.0, 4.0])
@pytest.mark.parametrize("step", [0.0, 0.5, 3.0])  # a coarse step makes many ties
def test_top_p_keeps_what_sorting_all_keeps(V: int, spread: float, step: float) -> None:
    torch.manual_seed(0)
    logits = torch.randn(3, 2, V) * spread
    if step:
        logits = (logits / step).round() * step
    if V > 7:
        logits[0, :, ::3] = -torch.inf  # as top-k leaves them
    for p in (1e-310, 1e-3, 0.1, 0.5, 0.9, 0.95, 0.999, 1 - 1e-9):
        assert torch.equal(top_p_filter(logits, p), top_p_by_sorting_all(logits, p))
        row = logits[1, 1]
        assert torch.equal(top_p_filter(row, p), top_p_by_sorting_all(row, p))
    assert top_p_filter(logits, 1) is logits


@pytest.mark.parametrize(
    ("p", "ids"),
    [(0.0, [0, 1, 2, 3]), (0.24, [0, 1, 2, 3]), (0.26, [0, 2]), (0.51, [2]), (1.0, [2])],
)
def test_min_p_is_relative_to_the_likeliest(p: float, ids: list[int]) -> None:
    assert kept(min_p_filter(LOGITS, p)) == ids


def test_filters_leave_what_they_keep_unchanged_in_every_row() -> None:
    logits = torch.stack([LOGITS[0], LOGITS[0].flip(0)])
    for filtered in (top_k_filter(logits, 2), top_p_filter(logits, 0.7), min_p_filter(logits, 0.3)):
        assert kept(filtered[:1]) == [0, 2]
        assert kept(filtered[1:]) == [1, 3]
        inside = filtered > -math.inf
        assert torch.equal(filtered[inside], logits[inside])


def draws(sampling: SamplingConfig, n: int = 20_000) -> list[float]:
    generator = torch.Generator().manual_seed(0)
    probabilities = distribution(LOGITS, sampling)
    ids = draw(probabilities.expand(n, -1), [generator] * n)
    return (ids.bincount(minlength=4) / n).tolist()


def test_draws_follow_the_distribution() -> None:
    # Temperature 1/2 squares the probabilities: 16 : 4 : 1 : 1 over 22.
    expected = {
        SamplingConfig(temperature=1.0): [0.25, 0.125, 0.5, 0.125],
        SamplingConfig(temperature=0.5): [4 / 22, 1 / 22, 16 / 22, 1 / 22],
        SamplingConfig(temperature=1.0, top_k=2): [1 / 3, 0, 2 / 3, 0],
        SamplingConfig(temperature=1.0, top_p=0.6): [1 / 3, 0, 2 / 3, 0],
        SamplingConfig(temperature=1.0, min_p=0.6): [0, 0, 1, 0],
        SamplingConfig(temperature=0.0): [0, 0, 1, 0],
        SamplingConfig(temperature=1e-40): [0, 0, 1, 0],
    }
    for sampling, probabilities in expected.items():
        assert draws(sampling) == pytest.approx(probabilities, abs=0.015)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": -1}, "temperature is -1: expected 0 or more"),
        ({"temperature": math.nan}, "temperature is nan"),
        ({"top_k": 0}, "top_k is 0: expected at least 1"),
        ({"top_p": 0.0}, "top_p is 0.0"),
        ({"top_p": 1.5}, "top_p is 1.5"),
        ({"min_p": -0.1}, "min_p is -0.1"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        SamplingConfig(**settings)


@pytest.fixture(scope="module")
def gpt() -> GPT:
    torch.manual_seed(0)
    model = GPT(ModelConfig(30, "gpt", 8, 2, 2, 16)).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # logits that depend on the context
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return model


GREEDY = SamplingConfig(temperature=0)


def test_greedy_generation_with_the_cache_is_argmax_of_the_whole_text(gpt: GPT) -> None:
    seen = [3, 1, 4]
    for token in generate(gpt, seen, 5, sampling=GREEDY, seed=0):
        assert token == int(gpt(torch.tensor([seen]))[0, -1].argmax())
        seen = [*seen, token]
    assert len(seen) == 8


def test_a_full_context_forgets_its_older_half(gpt: GPT) -> None:
    tokens = list(generate(gpt, [3, 1, 4], 30, sampling=GREEDY, seed=0))
    assert len(tokens) == 30
    # By the documented rule, without a cache: when 8 tokens are full, the last 4 remain.
    context, expected = [3, 1, 4], []
    for _ in range(30):
        if len(context) > 8:
            context = context[-4:]
        expected.append(int(gpt(torch.tensor([context]))[0, -1].argmax()))
        context.append(expected[-1])
    assert tokens == expected


def test_of_a_long_prompt_the_end_is_seen(gpt: GPT) -> None:
    long = [5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3]
    whole = list(generate(gpt, long, 4, sampling=GREEDY, seed=0))
    assert whole == list(generate(gpt, long[-8:], 4, sampling=GREEDY, seed=0))


def test_models_without_a_cache_generate_from_the_last_block() -> None:
    torch.manual_seed(0)
    model = build_model(ModelConfig(30, "multihead", 8, 1, 2, 16)).eval()
    seen = [3, 1, 4]
    for token in generate(model, seen, 20, sampling=GREEDY, seed=0):
        assert token == int(model(torch.tensor([seen[-8:]]))[0, -1].argmax())
        seen = [*seen, token]


def test_the_seed_decides_the_text(gpt: GPT) -> None:
    texts = [
        list(generate(gpt, [1], 20, sampling=SamplingConfig(temperature=1.0), seed=seed))
        for seed in (1, 1, 2)
    ]
    assert texts[0] == texts[1] != texts[2]


def test_the_stop_token_ends_the_text_and_is_not_part_of_it(gpt: GPT) -> None:
    tokens = list(generate(gpt, [3, 1, 4], 30, sampling=GREEDY, seed=0))
    stop = tokens[5]
    expected = tokens[: tokens.index(stop)]
    ids = generate(gpt, [3, 1, 4], 30, sampling=GREEDY, seed=0, stop_tokens={stop})
    assert list(ids) == expected


def test_ids_that_the_tokenizer_does_not_have_are_never_drawn(gpt: GPT) -> None:
    """Models are often padded to a round number of rows."""
    hot = SamplingConfig(temperature=100.0)
    assert max(generate(gpt, [3], 200, sampling=hot, seed=0)) == 29
    eleven = CharTokenizer.train("abcdefghijk")
    assert max(generate(gpt, [3], 200, sampling=hot, seed=0, tokenizer=eleven)) == 10
    few = CharTokenizer.train("ab\n")
    text = write_sample(gpt, few, 50, seed=0)
    assert set(text) <= set("ab\n")


def test_an_empty_prompt_is_refused(gpt: GPT) -> None:
    with pytest.raises(UserError, match="the prompt is empty"):
        next(generate(gpt, [], 1, sampling=GREEDY, seed=0))


def pieces(tokens: list[bytes]) -> list[str]:
    """What each token adds to the text, and what its end adds."""
    text = GrowingText()
    shown = [text.shown]
    for token in tokens:
        text.feed(token)
        shown.append(text.shown)
    text.finish()
    shown.append(text.shown)
    return [after.removeprefix(before) for before, after in pairwise(shown)]


def test_streamed_text_never_cuts_a_character() -> None:
    letters = [bytes([byte]) for byte in "aé漢🙂".encode()]
    assert [piece for piece in pieces(letters) if piece] == ["a", "é", "漢", "🙂"]
    assert pieces([b"\xf0", b"\x9f", b"a"]) == ["", "", "�a", ""]
    assert pieces([b"a", b"\xf0"]) == ["a", "", "�"]


def test_a_sample_begins_after_a_newline_where_there_is_one() -> None:
    assert default_prompt(BPETokenizer.train(["ab"], 257)) == [ord("\n")]
    assert default_prompt(CharTokenizer.train("\ta\nb")) == [1]
    assert default_prompt(CharTokenizer.train("abc")) == [0]
