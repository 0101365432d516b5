"""Penalties, bias, temperature and filters, against those of `transformers`."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import fields
from typing import Any, get_type_hints

import pytest
import torch

from gptfast.errors import UserError
from gptfast.sample.config import SamplingConfig, SamplingOptions
from gptfast.sample.processors import processors_for
from gptfast.sample.sampling import distribution, is_greedy

V = 50
PROMPT = [3, 7, 7, 11]
TEXT = [7, 20, 20, 20, 31]


@pytest.fixture(scope="module")
def oracle() -> Any:
    return pytest.importorskip("transformers.generation.logits_process")


def logits() -> torch.Tensor:
    return 3 * torch.randn(V, generator=torch.Generator().manual_seed(0))


def processed(sampling: SamplingConfig, ids: list[int] = PROMPT + TEXT) -> torch.Tensor:
    given = scores = logits()
    for processor in processors_for(sampling, len(PROMPT)):
        scores = processor(ids, scores)
    assert torch.equal(given, logits())  # a processor leaves what it gets
    return scores


def theirs(*processors: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> torch.Tensor:
    scores = logits()[None]
    for processor in processors:
        scores = processor(torch.tensor([PROMPT + TEXT]), scores)
    return scores[0]


@pytest.mark.parametrize("penalty", [0.7, 1.3])
def test_the_repetition_penalty_is_that_of_transformers(oracle: Any, penalty: float) -> None:
    actual = processed(SamplingConfig(repetition_penalty=penalty))
    expected = theirs(oracle.RepetitionPenaltyLogitsProcessor(penalty))
    torch.testing.assert_close(actual, expected)
    assert (actual != logits()).sum() == len({*PROMPT, *TEXT})


def test_the_bias_is_that_of_transformers(oracle: Any) -> None:
    bias = {4: 2.5, 20: -100.0, 0: 0.0}
    actual = processed(SamplingConfig(logit_bias=tuple(bias.items())))
    sequences = oracle.SequenceBiasLogitsProcessor([[[i], b] for i, b in bias.items()])
    torch.testing.assert_close(actual, theirs(sequences))


def test_presence_and_frequency_follow_openais_formula() -> None:
    """mu[j] - c[j] * frequency - (c[j] > 0) * presence, where c counts what was written."""
    actual = processed(SamplingConfig(presence_penalty=0.5, frequency_penalty=0.25))
    expected = logits()
    expected[7] -= 0.25 + 0.5  # its two in the prompt don't count
    expected[20] -= 3 * 0.25 + 0.5
    expected[31] -= 0.25 + 0.5
    torch.testing.assert_close(actual, expected)
    nothing = processed(SamplingConfig(presence_penalty=0.5), PROMPT)
    assert torch.equal(nothing, logits())


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.0])
@pytest.mark.parametrize("top_k", [None, 1, 7, V, V + 9])
@pytest.mark.parametrize("top_p", [None, 0.4, 0.97, 1.0])
@pytest.mark.parametrize("min_p", [None, 0.02, 0.6])
def test_the_distribution_is_that_of_transformers(
    oracle: Any, temperature: float, top_k: int | None, top_p: float | None, min_p: float | None
) -> None:
    """Everything at once, so the order is theirs, too."""
    sampling = SamplingConfig(temperature, top_k, top_p, min_p, repetition_penalty=1.2)
    chain = [
        oracle.RepetitionPenaltyLogitsProcessor(1.2),
        oracle.TemperatureLogitsWarper(temperature),
    ]
    if top_k is not None:
        chain.append(oracle.TopKLogitsWarper(top_k))
    if top_p is not None:
        chain.append(oracle.TopPLogitsWarper(top_p))
    if min_p is not None:
        chain.append(oracle.MinPLogitsWarper(min_p))
    actual = distribution(processed(sampling), sampling)
    torch.testing.assert_close(actual, theirs(*chain).softmax(-1))
    assert math.isclose(actual.sum().item(), 1.0, abs_tol=1e-6)


def test_penalties_come_before_the_bias_and_both_before_the_temperature() -> None:
    sampling = SamplingConfig(
        temperature=0.5, repetition_penalty=2.0, presence_penalty=0.5, logit_bias=((20, 1.0),)
    )
    x = logits()[20].item()
    by_hand = (x / 2 if x > 0 else x * 2) - 0.5 + 1.0
    assert processed(sampling)[20].item() == pytest.approx(by_hand, abs=1e-6)
    scores = processed(sampling)
    torch.testing.assert_close(distribution(scores, sampling), (scores / 0.5).softmax(-1))


@pytest.mark.parametrize("bias", [{5: -100, 1: 2}, [(5, -100), [1, 2.0]], ((5, -100.0), (1, 2))])
def test_a_bias_may_be_a_mapping_or_any_pairs(bias: Any) -> None:
    sampling = SamplingConfig(logit_bias=bias)
    assert sampling == SamplingConfig(logit_bias=((5, -100.0), (1, 2.0)))
    assert hash(sampling) == hash(SamplingConfig(logit_bias=((5, -100.0), (1, 2.0))))
    assert processed(sampling)[5] == logits()[5] - 100


@pytest.mark.parametrize("name", ["repetition_penalty", "frequency_penalty"])
@pytest.mark.parametrize("value", [1e-30, 1e30])
def test_the_largest_options_leave_the_logits_finite(name: str, value: float) -> None:
    ids = PROMPT + 100_000 * [7]
    assert processed(SamplingConfig(**{name: value}), ids).isfinite().all()


def test_the_keywords_of_functions_are_the_fields_of_the_configuration() -> None:
    names = {field.name for field in fields(SamplingConfig)}
    assert get_type_hints(SamplingOptions).keys() == names
    assert get_type_hints(SamplingOptions) == get_type_hints(SamplingConfig)


def test_no_options_mean_no_processors() -> None:
    assert processors_for(SamplingConfig(), 3) == []


def test_temperature_zero_puts_all_on_the_likeliest() -> None:
    sampling = SamplingConfig(0, top_k=3)
    assert is_greedy(sampling)
    probabilities = distribution(logits(), sampling)
    assert probabilities[logits().argmax()] == 1
    assert probabilities.sum() == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"repetition_penalty": 0}, "repetition_penalty is 0.0: expected 1e-30 to 1e.30"),
        ({"repetition_penalty": 1e-46}, "repetition_penalty is 1e-46"),
        ({"repetition_penalty": math.inf}, "repetition_penalty is inf"),
        ({"presence_penalty": math.nan}, "presence_penalty is nan: expected -1e.30 to 1e.30"),
        ({"frequency_penalty": 1e39}, "frequency_penalty is 1e.39"),
        ({"frequency_penalty": "1"}, "frequency_penalty is '1': expected a number"),
        ({"logit_bias": ((-1, 1.0),)}, "an id in logit_bias is -1"),
        ({"logit_bias": ((1, math.inf),)}, "the logit_bias of token 1 is inf"),
        ({"logit_bias": {1: 1e39}}, "the logit_bias of token 1 is 1e.39"),
        ({"logit_bias": {"1": 1}}, "an id in logit_bias is '1'"),
        ({"logit_bias": ((1, 1.0), (1, 2.0))}, "logit_bias has token 1 twice"),
        ({"logit_bias": (1, 2)}, r"logit_bias is \(1, 2\): expected pairs"),
        ({"logit_bias": 5}, "logit_bias is 5: expected pairs"),
    ],
)
def test_impossible_options_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        SamplingConfig(**settings)
