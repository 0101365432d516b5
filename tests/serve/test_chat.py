"""`/v1/chat/completions`, for a model with a chat template and for one without."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx2
import pytest
from openai.types.chat import ChatCompletion
from served import Serve, greedy, logprobs, openai_of, run

from gptfast.model import GPT
from gptfast.tokenizer import BPETokenizer

MESSAGES = [{"role": "user", "content": "The king sees"}]


async def ask(client: httpx2.AsyncClient, **body: Any) -> ChatCompletion:
    body = {"model": "small", "messages": MESSAGES} | body
    answer = await client.post("/v1/chat/completions", json=body)
    assert answer.status_code == 200, answer.text
    return ChatCompletion.model_validate_json(answer.text, strict=True)


def text_part(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


def user(content: Any, **more: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": content, **more}]


def prompt_of(tokenizer: BPETokenizer, *messages: tuple[str, str]) -> list[int]:
    """The ids of user messages (u) and answers (a), as the template of these tests has them."""
    special = tokenizer.special_tokens
    begin = {"u": special["<|user|>"], "a": special["<|assistant|>"]}
    ids = [i for who, text in messages for i in [begin[who], *tokenizer.encode_ordinary(text)]]
    return [*ids, begin["a"]]


def test_a_base_model_refuses_to_chat(serve: Serve) -> None:
    async def work(client: httpx2.AsyncClient) -> None:
        for body in ({"messages": MESSAGES}, {}):
            answer = await client.post("/v1/chat/completions", json=body)
            assert answer.status_code == 400
            assert answer.json()["error"]["code"] == "no_chat_template"

    run(serve, work)


def test_the_answer_follows_the_template(serve: Serve, model: GPT, tokenizer: BPETokenizer) -> None:
    dialogues: list[tuple[list[dict[str, Any]], list[int]]] = [
        (MESSAGES, prompt_of(tokenizer, ("u", "The king sees"))),
        (
            [
                {"role": "developer", "content": "Be kind."},
                {"role": "user", "content": [text_part("a"), text_part("b")]},
                {"role": "assistant", "content": "c"},
                {"role": "user", "content": "d", "name": "Bob"},
            ],
            prompt_of(tokenizer, ("u", "Be kind."), ("u", "ab"), ("a", "c"), ("u", "d")),
        ),
    ]  # fmt: skip

    async def work(client: httpx2.AsyncClient) -> None:
        for messages, ids in dialogues:
            written = greedy(model, tokenizer, ids, 64 - len(ids) + 1)
            whole = await openai_of(client).chat.completions.create(
                model="small",
                messages=messages,
                temperature=0,  # type: ignore[arg-type]
            )
            # By default, as much as the context has room for.
            assert whole.choices[0].message.role == "assistant"
            assert whole.choices[0].message.content == tokenizer.decode(written)
            assert whole.usage is not None
            assert whole.usage.prompt_tokens == len(ids)
            assert whole.usage.completion_tokens == len(written)
            for limit in ({"max_tokens": 5}, {"max_completion_tokens": 5, "max_tokens": 9}):
                short = await ask(client, messages=messages, temperature=0, **limit)
                assert short.choices[0].message.content == tokenizer.decode(written[:5])
                assert short.choices[0].finish_reason == "length"

    run(serve, work, chat=True)


def test_logprobs_are_those_of_the_whole_text(
    serve: Serve, model: GPT, tokenizer: BPETokenizer
) -> None:
    ids = prompt_of(tokenizer, ("u", "The king sees"))
    written = greedy(model, tokenizer, ids, 8)
    expected = logprobs(model, ids + written)[len(ids) - 1 :]

    async def work(client: httpx2.AsyncClient) -> None:
        body = {"temperature": 0, "max_tokens": 8, "logprobs": True}
        for n_top in (0, 4, 20):
            answer = await ask(client, top_logprobs=n_top, **body)
            assert answer.choices[0].logprobs is not None
            content = answer.choices[0].logprobs.content
            assert content is not None
            assert len(content) == 8
            for t, token in enumerate(content):
                assert bytes(token.bytes or []) == tokenizer.token_bytes(written[t])
                assert token.token == tokenizer.decode([written[t]])
                assert token.logprob == pytest.approx(float(expected[t, written[t]]), abs=1e-4)
                tops = expected[t, : tokenizer.n_vocab].topk(n_top).values.tolist()
                assert [top.logprob for top in token.top_logprobs] == pytest.approx(tops, abs=1e-4)
        without = await ask(client, temperature=0, max_tokens=8, logprobs=False)
        assert without.choices[0].logprobs is None

    run(serve, work, chat=True)


@pytest.mark.parametrize(
    "body",
    [
        {"temperature": 2},
        {"n": 3, "logprobs": True, "top_logprobs": 2, "temperature": 1.5},
        {"stop": ["e"], "logprobs": True, "temperature": 1.5},
        {"max_tokens": 1},
    ],
    ids=str,
)
def test_a_stream_says_the_same_as_a_whole_answer(serve: Serve, body: dict[str, Any]) -> None:
    async def work(client: httpx2.AsyncClient) -> None:
        for seed in range(3):
            whole = await ask(client, seed=seed, **body)
            n = body.get("n", 1)
            texts, reasons, roles = [""] * n, [None] * n, [0] * n
            content: list[list[Any]] = [[] for _ in range(n)]
            usage = None
            stream: Any = await openai_of(client).chat.completions.create(
                model="small", messages=MESSAGES, seed=seed, stream=True,
                stream_options={"include_usage": True}, **body,
            )  # fmt: skip
            async for chunk in stream:
                assert chunk.object == "chat.completion.chunk"
                if not chunk.choices:
                    usage = chunk.usage
                for choice in chunk.choices:
                    texts[choice.index] += choice.delta.content or ""
                    roles[choice.index] += choice.delta.role == "assistant"
                    reasons[choice.index] = choice.finish_reason
                    if choice.logprobs is not None:
                        content[choice.index] += choice.logprobs.content
            assert texts == [choice.message.content for choice in whole.choices]
            assert reasons == [choice.finish_reason for choice in whole.choices]
            assert roles == [1] * n
            assert usage == whole.usage
            if body.get("logprobs"):
                assert content == [c.logprobs.content for c in whole.choices if c.logprobs]

    run(serve, work, chat=True)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"messages": None}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": ["hi"]}, "messages[0]"),
        ({"messages": [{"role": "tool", "content": "hi"}]}, "messages[0].role"),
        ({"messages": [{"content": "hi"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": user([{"type": "image_url"}])}, "messages[0].content"),
        ({"messages": user("\ud800")}, "messages[0].content"),
        ({"messages": user("a", tool_calls=[1])}, "messages[0].tool_calls"),
        ({"messages": user("a" * 500)}, "messages"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logprobs": 2}, "logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_completion_tokens": 64}, "messages"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema.schema"),
        ({"modalities": ["audio"]}, "modalities"),
        ({"reasoning_effort": "high"}, "reasoning_effort"),
        ({"store": True}, "store"),
        ({"prompt": "hi"}, "prompt"),
        ({"echo": True}, "echo"),
    ],
    ids=str,
)  # fmt: skip
def test_what_a_chat_cannot_mean_is_refused_by_name(
    serve: Serve, body: dict[str, Any], param: str
) -> None:
    async def work(client: httpx2.AsyncClient) -> None:
        content = json.dumps({"messages": MESSAGES} | body)  # it escapes lone surrogates
        answer = await client.post("/v1/chat/completions", content=content)
        assert answer.status_code == 400
        error = answer.json()["error"]
        assert error["param"] == param
        assert set(error) == {"message", "type", "param", "code"}

    run(serve, work, chat=True)


def test_fields_that_change_nothing_are_taken(serve: Serve) -> None:
    async def work(client: httpx2.AsyncClient) -> None:
        await ask(client, user="me", store=False, tools=[], tool_choice="auto", top_p=None, n=None,
                  response_format={"type": "text"}, modalities=["text"], service_tier="auto",
                  metadata={"a": "b"}, parallel_tool_calls=True)  # fmt: skip

    run(serve, work, chat=True)


SCHEMA = {
    "type": "object",
    "properties": {"king": {"enum": ["a", "b"]}, "n": {"type": "integer", "maximum": 99}},
    "required": ["king", "n"],
    "additionalProperties": False,
}


def test_an_answer_follows_a_schema(serve: Serve) -> None:
    pytest.importorskip("llguidance", reason="needs the extra grammar")
    json_schema = {"name": "k", "schema": SCHEMA, "strict": True}
    wanted = {"type": "json_schema", "json_schema": json_schema}

    async def work(client: httpx2.AsyncClient) -> None:
        asked = [ask(client, seed=seed, response_format=wanted) for seed in range(8)]
        for answer in await asyncio.gather(*asked):
            assert answer.choices[0].finish_reason == "stop"
            found = json.loads(answer.choices[0].message.content or "")
            assert set(found) == {"king", "n"}
            assert found["king"] in ("a", "b")
            assert found["n"] <= 99
        bias = {str(i): -100 for i in range(320) if i != 125}  # } as soon as it may come
        answer = await ask(client, response_format={"type": "json_object"}, logit_bias=bias)
        assert answer.choices[0].message.content == "{}"
        body = {"messages": MESSAGES, "response_format": wanted}
        json_schema["schema"] = {"type": "nothing"}
        refused = await client.post("/v1/chat/completions", json=body)
        assert refused.status_code == 400
        assert "grammar" in refused.json()["error"]["message"]

    run(serve, work, chat=True)
