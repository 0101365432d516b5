"""What a client asks for: the fields that `/v1/completions` and `/v1/chat/completions` share."""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from gptfast.sample.config import SamplingConfig
from gptfast.serve.errors import ApiError
from gptfast.serve.fields import Fields, is_text

MOST_STOPS = 4
MOST_CHOICES = 128
MOST_LOGPROBS = 20
MOST_STOP_CHARACTERS = 1_000
SEEDS = 2**62
"""Seeds are taken modulo this, so that seed + i is one, too. OpenAI's may be negative."""

NO_EFFECT = (
    "user", "safety_identifier", "prompt_cache_key", "prompt_cache_retention", "service_tier",
)  # fmt: skip
"""OpenAI's strings that change no text: accepted and ignored."""


@dataclass(frozen=True)
class Asked:
    """How to continue each prompt, and how to answer."""

    sampling: SamplingConfig
    seed: int
    n: int
    """Continuations of each prompt that are returned."""
    stop: tuple[str, ...]
    is_streamed: bool
    with_usage: bool
    """End the stream with a chunk that holds the usage."""


def read_asked(fields: Fields, n_vocab: int) -> Asked:
    """Read the common fields. Raises ApiError (400) for values that OpenAI would refuse, too."""
    for name in NO_EFFECT:
        fields.text(name)
    fields.object("metadata")
    fields.boolean("parallel_tool_calls")
    is_streamed = fields.boolean("stream")
    options = fields.object("stream_options")
    with_usage = options.boolean("include_usage")
    options.boolean("include_obfuscation")  # this pads chunks; here they have their own length
    options.refuse_others()
    if with_usage and not is_streamed:
        message = 'stream_options is given without stream: expected "stream": true beside it'
        raise ApiError(400, message, param="stream_options")
    seed = fields.integer("seed", None, -(2**63), 2**63 - 1)
    return Asked(
        sampling=_sampling(fields, n_vocab),
        seed=secrets.randbelow(SEEDS) if seed is None else seed % SEEDS,
        n=fields.integer("n", 1, 1, MOST_CHOICES),
        stop=_stops(fields),
        is_streamed=is_streamed,
        with_usage=with_usage,
    )


def _sampling(fields: Fields, n_vocab: int) -> SamplingConfig:
    top_p = fields.number("top_p", None, 0, 1)
    return SamplingConfig(
        temperature=fields.number("temperature", 1.0, 0, 2),
        top_k=fields.integer("top_k", None, 1, 2**31),
        top_p=max(top_p, 1e-9) if top_p is not None else None,  # 0 leaves the likeliest alone
        min_p=fields.number("min_p", None, 0, 1),
        repetition_penalty=fields.number("repetition_penalty", 1.0, 0.01, 100),
        presence_penalty=fields.number("presence_penalty", 0.0, -2, 2),
        frequency_penalty=fields.number("frequency_penalty", 0.0, -2, 2),
        logit_bias=_logit_bias(fields, n_vocab),
    )


def _logit_bias(fields: Fields, n_vocab: int) -> tuple[tuple[int, float], ...]:
    bias = fields.object("logit_bias")
    found = {}
    for name in bias.names():
        if not (name.isascii() and name.isdecimal() and len(name) < 12 and int(name) < n_vocab):
            expected = f"token ids from 0 to {n_vocab - 1} as keys"
            raise fields.wrong("logit_bias", name, expected)
        found[int(name)] = bias.number(name, 0.0, -100, 100)
    return tuple(found.items())


def _stops(fields: Fields) -> tuple[str, ...]:
    value = fields.take("stop")
    stops = [] if value is None else value if isinstance(value, list) else [value]
    if len(stops) > MOST_STOPS:
        raise fields.wrong("stop", value, f"at most {MOST_STOPS} strings")
    for stop in stops:
        if not is_text(stop) or not 0 < len(stop) <= MOST_STOP_CHARACTERS:
            expected = f"strings of 1 to {MOST_STOP_CHARACTERS} Unicode characters"
            raise fields.wrong("stop", stop, expected)
    return tuple(stops)
