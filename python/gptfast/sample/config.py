"""How the next token is drawn. Needs no PyTorch, so that `--help` is quick."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypedDict

from gptfast.errors import UserError, as_float, as_int, check_at_least, shown

LARGEST = 1e30
"""Largest penalty or bias: with it, a million tokens can't take a logit out of float32's range."""


@dataclass(frozen=True)
class SamplingConfig:
    """How to draw the next token from the model's distribution.

    The fields apply in this order: repetition_penalty, presence_penalty, frequency_penalty,
    logit_bias, temperature, top_k, top_p, min_p. `Request.processors` act after logit_bias.
    """

    temperature: float = 0.8
    """Divides the logits. Below 1 samples are safer, above 1 more varied; 0 takes the likeliest."""
    top_k: int | None = None
    """Draw only from the k likeliest tokens."""
    top_p: float | None = None
    """Draw from the fewest likeliest tokens that hold this share of the probability."""
    min_p: float | None = None
    """Draw from tokens at least this many times as likely as the likeliest."""
    repetition_penalty: float = 1.0
    """Divides the positive logits of tokens in the prompt or the text, and multiplies the negative
    ones. 1 does nothing; above 1 the text repeats less."""
    presence_penalty: float = 0.0
    """Subtracted from the logits of tokens that are in the text; the prompt does not count."""
    frequency_penalty: float = 0.0
    """Subtracted from a token's logit once for each time that it is in the text."""
    logit_bias: tuple[tuple[int, float], ...] = ()
    """Pairs of a token id and a number that is added to its logit; -100 forbids it in practice. In
    Python, a mapping such as {5: -100} becomes these pairs."""

    def __post_init__(self) -> None:
        as_float("temperature", self.temperature)
        if not 0 <= self.temperature < math.inf:
            raise UserError(f"temperature is {self.temperature}: expected 0 or more, and finite")
        if self.top_k is not None:
            check_top_k(self.top_k)
        if self.top_p is not None:
            check_top_p(self.top_p)
        if self.min_p is not None:
            check_min_p(self.min_p)
        penalty = as_float("repetition_penalty", self.repetition_penalty)
        if not 1 / LARGEST <= penalty <= LARGEST:
            raise UserError(
                f"repetition_penalty is {penalty}: expected {1 / LARGEST:g} to {LARGEST:g}"
            )
        for name in ("presence_penalty", "frequency_penalty"):
            _check_addend(name, getattr(self, name))
        object.__setattr__(self, "logit_bias", _pairs(self.logit_bias))


class SamplingOptions(TypedDict, total=False):
    """The fields of `SamplingConfig` as keywords of a function."""

    temperature: float
    top_k: int | None
    top_p: float | None
    min_p: float | None
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    logit_bias: tuple[tuple[int, float], ...]


def _check_addend(name: str, value: float) -> None:
    if not abs(as_float(name, value)) <= LARGEST:  # a NaN isn't, either
        raise UserError(f"{name} is {value}: expected {-LARGEST:g} to {LARGEST:g}")


def _pairs(bias: object) -> tuple[tuple[int, float], ...]:
    """Return the pairs of a mapping or of an iterable of pairs. Raise UserError for others."""
    try:
        items = bias.items() if isinstance(bias, Mapping) else bias
        given = [(token, value) for token, value in items]  # type: ignore[attr-defined]
    except (TypeError, ValueError) as error:
        raise UserError(
            f"logit_bias is {shown(bias)}: expected pairs of a token id and a number, such as "
            f"((5, -100),) or {{5: -100}}"
        ) from error
    pairs = {}
    for token, value in given:
        check_at_least("an id in logit_bias", token, 0)
        _check_addend(f"the logit_bias of token {token}", value)
        if token in pairs:
            raise UserError(f"logit_bias has token {token} twice: expected each id once")
        pairs[int(token)] = float(value)
    return tuple(pairs.items())


def check_top_k(k: int) -> None:
    """Raise UserError unless k is a whole number of at least 1."""
    check_at_least("top_k", k, 1)


def check_top_p(p: float) -> None:
    """Raise UserError unless 0 < p <= 1."""
    as_float("top_p", p)
    if not 0.0 < p <= 1.0:
        raise UserError(f"top_p is {p}: expected 0 < top_p <= 1")


def check_min_p(p: float) -> None:
    """Raise UserError unless 0 <= p <= 1."""
    as_float("min_p", p)
    if not 0.0 <= p <= 1.0:
        raise UserError(f"min_p is {p}: expected 0 <= min_p <= 1")


def check_seed(seed: int) -> None:
    """Raise UserError unless the seed is a whole number from 0 to 2^63 - 1."""
    if not 0 <= as_int("seed", seed) < 2**63:
        raise UserError(f"seed is {seed}: expected 0 to 2^63 - 1")
