"""`/v1/completions`, field by field: read by OpenAI's client, and known by the naive twin."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx2
import pytest
from served import PROMPT, Serve, ask, greedy, logprobs, openai_of, run

from gptfast.model import GPT
from gptfast.sample.config import SamplingConfig
from gptfast.serve.completions import Completions
from gptfast.serve.fields import Fields
from gptfast.serve.limits import Limits
from gptfast.tokenizer import BPETokenizer

LIMITS = Limits(64, 4, 32)


def test_greedy_text_and_usage_are_those_of_the_naive_twin(
    serve: Serve, model: GPT, tokenizer: BPETokenizer
) -> None:
    ids = tokenizer.encode_ordinary(PROMPT)
    expected = greedy(model, tokenizer, ids, 20)

    async def work(client: httpx2.AsyncClient) -> None:
        answer = await openai_of(client).completions.create(
            model="small", prompt=PROMPT, max_tokens=20, temperature=0
        )
        assert answer.choices[0].text == tokenizer.decode(expected)
        assert answer.choices[0].finish_reason == "length"
        assert answer.usage is not None
        assert answer.usage.prompt_tokens == len(ids)
        assert answer.usage.completion_tokens == 20
        assert answer.usage.total_tokens == len(ids) + 20
        assert answer.model == "small"
        # Sixteen tokens and temperature 1 by default, as OpenAI's.
        usual = await ask(client)
        assert usual.usage is not None
        assert usual.usage.completion_tokens <= 16

    run(serve, work)


def test_every_form_of_prompt(serve: Serve, tokenizer: BPETokenizer) -> None:
    ids, others = tokenizer.encode_ordinary(PROMPT), tokenizer.encode_ordinary("ALICE:\n")

    async def work(client: httpx2.AsyncClient) -> None:
        options = {"temperature": 0, "max_tokens": 8}
        one = await ask(client, **options)
        other = await ask(client, prompt="ALICE:\n", **options)
        for prompt in ([PROMPT], ids, [ids]):
            assert (await ask(client, prompt=prompt, **options)).choices == one.choices
        for prompt in ([PROMPT, "ALICE:\n"], [ids, others]):
            both = await ask(client, prompt=prompt, n=2, **options)
            assert [c.index for c in both.choices] == [0, 1, 2, 3]
            texts = [one.choices[0].text] * 2 + [other.choices[0].text] * 2
            assert [c.text for c in both.choices] == texts
            assert both.usage is not None
            # A prompt counts once, however many texts follow it.
            assert both.usage.prompt_tokens == len(ids) + len(others)
            assert both.usage.completion_tokens == 32

    run(serve, work)


def test_no_prompt_begins_a_document(serve: Serve, tokenizer: BPETokenizer) -> None:
    async def work(client: httpx2.AsyncClient) -> None:
        options = {"temperature": 0, "max_tokens": 8}
        begun = await ask(client, prompt=[tokenizer.eot_token], **options)
        for prompt in ("", None):
            body = {"prompt": prompt, "echo": True, **options}
            answer = await ask(client, **body)
            assert answer.choices[0].text == begun.choices[0].text

    run(serve, work)


def test_special_tokens_in_a_prompt_are_text_unless_allowed(
    serve: Serve, tokenizer: BPETokenizer
) -> None:
    text = "The king.<|endoftext|>"
    assert len(tokenizer.encode(text, "all")) < len(tokenizer.encode(text))

    async def work(client: httpx2.AsyncClient) -> None:
        for allow, ids in ((False, tokenizer.encode(text)), (True, tokenizer.encode(text, "all"))):
            answer = await ask(client, prompt=text, allow_special=allow, max_tokens=1)
            assert answer.usage is not None
            assert answer.usage.prompt_tokens == len(ids)

    run(serve, work)


def test_echo_and_logprobs_are_those_of_the_whole_text(
    serve: Serve, model: GPT, tokenizer: BPETokenizer
) -> None:
    ids = tokenizer.encode_ordinary(PROMPT)
    written = greedy(model, tokenizer, ids, 10)
    expected = logprobs(model, ids + written)

    async def work(client: httpx2.AsyncClient) -> None:
        for n_tokens in (10, 0):
            all_ids = ids + written[:n_tokens]
            answer = await ask(client, echo=True, logprobs=3, max_tokens=n_tokens, temperature=0)
            choice = answer.choices[0]
            text, found = choice.text, choice.logprobs
            assert text == tokenizer.decode(all_ids)
            assert len(found.tokens) == len(all_ids)
            for t, token_id in enumerate(all_ids[1:]):
                logprob = float(expected[t, token_id])
                assert found.token_logprobs[t + 1] == pytest.approx(logprob, abs=1e-4)
                likeliest = expected[t].topk(3)
                tokens = [tokenizer.decode([i]) for i in likeliest.indices.tolist()]
                tops = found.top_logprobs[t + 1]
                assert 3 <= len(tops) <= 4  # the token itself, where it is not among the likeliest
                for token, value in zip(tokens, likeliest.values.tolist(), strict=True):
                    if "\ufffd" not in token:
                        assert tops[token] == pytest.approx(value, abs=1e-4)
            for token, begin in zip(found.tokens, found.text_offset, strict=True):
                if not token.startswith("bytes:"):
                    assert text[begin : begin + len(token)] == token

    run(serve, work)


def test_logprobs_alone_leave_the_prompt_out(serve: Serve) -> None:
    async def work(client: httpx2.AsyncClient) -> None:
        answer = await ask(client, logprobs=0, max_tokens=6, temperature=0)
        found = answer.choices[0].logprobs
        assert found is not None
        assert found.tokens is not None
        assert found.top_logprobs is not None
        assert len(found.tokens) == 6
        assert [len(top) for top in found.top_logprobs] == [1] * 6
        assert found.text_offset is not None
        assert found.text_offset[0] == 0
        without = await ask(client, max_tokens=6, temperature=0)
        assert without.choices[0].logprobs is None

    run(serve, work)


def test_a_stop_string_ends_the_text_before_it_wherever_tokens_end(serve: Serve) -> None:
    async def work(client: httpx2.AsyncClient) -> None:
        options = {"temperature": 0, "max_tokens": 30, "logprobs": 1}
        whole = (await ask(client, **options)).choices[0]
        assert whole.logprobs is not None
        assert whole.logprobs.text_offset is not None
        begins = whole.logprobs.text_offset
        # From the middle of one token to the middle of another, where there are such.
        for begin in range(3, len(whole.text) - 6, 4):
            stop = whole.text[begin : begin + 5]
            first = whole.text.index(stop)
            answer = (await ask(client, stop=[stop, "never"], **options)).choices[0]
            assert answer.text == whole.text[:first]
            assert answer.finish_reason == "stop"
            assert answer.logprobs is not None
            assert answer.logprobs.text_offset == [b for b in begins if b < first]
            assert (await ask(client, stop=stop, **options)).choices[0].text == answer.text

    run(serve, work)


def test_seeds_repeat_whatever_else_runs(serve: Serve) -> None:
    async def work(client: httpx2.AsyncClient) -> None:
        options = {"temperature": 1.0, "max_tokens": 12}
        alone = [(await ask(client, seed=s, **options)).choices[0].text for s in (7, 8, 9)]
        assert len(set(alone)) == 3
        others = [ask(client, prompt="BOB:\n", seed=i, **options) for i in range(5)]
        again = [ask(client, seed=s, **options) for s in (7, 8, 9)]
        together = await asyncio.gather(*others[:3], *again, *others[3:])
        assert [answer.choices[0].text for answer in together[3:6]] == alone
        three = await ask(client, seed=7, n=3, **options)
        assert [choice.text for choice in three.choices] == alone
        unseeded = [(await ask(client, **options)).choices[0].text for _ in range(4)]
        assert len(set(unseeded)) > 1
        assert (await ask(client, seed=-7, **options)).choices[0].text != alone[0]

    run(serve, work)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({}, {"temperature": 1.0}),
        ({"temperature": 0}, {"temperature": 0.0}),
        ({"temperature": None}, {"temperature": 1.0}),
        ({"temperature": 2}, {"temperature": 2.0}),
        ({"top_p": 0.5}, {"top_p": 0.5}),
        ({"top_p": 0}, {"top_p": 1e-9}),
        ({"top_k": 3}, {"top_k": 3}),
        ({"min_p": 0.1}, {"min_p": 0.1}),
        ({"presence_penalty": -2}, {"presence_penalty": -2.0}),
        ({"frequency_penalty": 2}, {"frequency_penalty": 2.0}),
        ({"repetition_penalty": 1.2}, {"repetition_penalty": 1.2}),
        ({"logit_bias": {"5": -100, "7": 1.5}}, {"logit_bias": ((5, -100.0), (7, 1.5))}),
        ({"user": "me", "metadata": {"a": "b"}, "suffix": ""}, {}),
    ],
)
def test_every_option_of_the_draw_reaches_the_engine(
    tokenizer: BPETokenizer, body: dict[str, Any], expected: dict[str, Any]
) -> None:
    completions = Completions(Fields({"prompt": "a"} | body), tokenizer, LIMITS)
    wanted = SamplingConfig(**({"temperature": 1.0} | expected))
    assert completions.requests[0].sampling == wanted


def test_options_of_the_draw_act(serve: Serve, tokenizer: BPETokenizer) -> None:
    the = tokenizer.encode_ordinary("The")[0]

    async def work(client: httpx2.AsyncClient) -> None:
        likeliest = (await ask(client, temperature=0)).choices[0].text
        for option in ({"top_k": 1}, {"top_p": 0}, {"top_p": 1e-6}, {"min_p": 1}):
            assert (await ask(client, temperature=2, **option)).choices[0].text == likeliest
        biased = await ask(client, temperature=0, logit_bias={str(the): 100}, max_tokens=5)
        assert biased.choices[0].text == tokenizer.decode([the]) * 5
        # Forced as strongly, but 2 less likely for each time that it was written.
        bias = {str(the): 100, str(the + 1): 99}
        varied = await ask(
            client, temperature=0, logit_bias=bias, frequency_penalty=2, max_tokens=20
        )
        assert varied.choices[0].text != tokenizer.decode([the]) * 20

    run(serve, work)


def test_best_of_returns_the_likeliest_per_token(serve: Serve) -> None:
    async def work(client: httpx2.AsyncClient) -> None:
        options = {"temperature": 1.5, "max_tokens": 6, "logprobs": 0, "seed": 3}
        all_six = await ask(client, n=6, **options)

        def mean(choice: Any) -> float:
            return sum(choice.logprobs.token_logprobs) / len(choice.logprobs.token_logprobs)

        ranked = sorted(all_six.choices, key=mean, reverse=True)
        best = await ask(client, n=2, best_of=6, **options)
        assert [c.text for c in best.choices] == [c.text for c in ranked[:2]]
        assert [c.index for c in best.choices] == [0, 1]
        assert best.usage == all_six.usage  # what was written counts

    run(serve, work)


STREAMED = [
    {},
    {"temperature": 0},
    {"temperature": 2, "max_tokens": 40},
    {"temperature": 2, "max_tokens": 40, "logprobs": 2},
    {"n": 3, "logprobs": 1},
    {"prompt": [PROMPT, "BOB:\n"], "n": 2, "echo": True},
    {"echo": True, "logprobs": 1, "max_tokens": 5},
    {"echo": True, "logprobs": 1, "max_tokens": 0},
    {"max_tokens": 0},
    {"stop": ["e", "\n"], "logprobs": 0, "temperature": 1.5, "max_tokens": 40},
]


@pytest.mark.parametrize("body", STREAMED, ids=str)
def test_a_stream_says_the_same_as_a_whole_answer(serve: Serve, body: dict[str, Any]) -> None:
    async def work(client: httpx2.AsyncClient) -> None:
        for seed in range(3):
            asked: dict[str, Any] = {"model": "small", "prompt": PROMPT, "seed": seed} | body
            whole = (await client.post("/v1/completions", json=asked)).json()
            parts: dict[int, dict[str, Any]] = {}
            usage, n_chunks, extra = None, 0, {"stream_options": {"include_usage": True}}
            stream = await openai_of(client).completions.create(**asked, stream=True, **extra)
            async for chunk in stream:
                n_chunks += 1
                assert chunk.object == "text_completion"
                if not chunk.choices:
                    usage = chunk.usage
                    continue
                assert chunk.usage is None
                (choice,) = chunk.choices
                part = parts.setdefault(
                    choice.index, {"text": "", "logprobs": None, "index": choice.index}
                )
                part["text"] += choice.text
                part["finish_reason"] = choice.finish_reason
                if choice.logprobs is not None:
                    new = choice.logprobs.model_dump()
                    old = part["logprobs"] or {name: [] for name in new}
                    part["logprobs"] = {name: old[name] + new[name] for name in new}
            assert [parts[i] for i in sorted(parts)] == whole["choices"]
            assert usage is not None
            assert usage.model_dump(exclude_none=True) == whole["usage"]
            if asked.get("max_tokens", 16) > 10 and "stop" not in body:
                assert n_chunks > 5  # it does come in parts

    run(serve, work)


def test_chunks_never_cut_a_character(serve: Serve) -> None:
    """At temperature 2 the small model writes many bytes that are no characters."""

    async def work(client: httpx2.AsyncClient) -> None:
        seen = ""
        for seed in range(5):
            body = {"prompt": "é", "temperature": 2, "max_tokens": 50, "seed": seed, "logprobs": 0}
            async with client.stream(
                "POST", "/v1/completions", json=body | {"stream": True}
            ) as answer:
                raw = b"".join([part async for part in answer.aiter_raw()])
            raw.decode("utf-8")
            whole = (await client.post("/v1/completions", json=body)).json()["choices"][0]
            tokens = whole["logprobs"]["tokens"]
            data = b"".join(
                bytes.fromhex(token[6:].replace("\\x", "")) if token.startswith("bytes:")
                else token.encode()
                for token in tokens
            )  # fmt: skip
            assert data.decode("utf-8", errors="replace") == whole["text"]
            seen += whole["text"]
        assert "\ufffd" in seen

    run(serve, work)
