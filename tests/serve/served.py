"""Ask a server within this process; and what it should answer, computed anew for every token."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeAlias

import httpx2
import torch
from openai import AsyncOpenAI
from openai.types import Completion

from gptfast.model import GPT
from gptfast.tokenizer import BPETokenizer

PROMPT = "The king sees the "
Serve: TypeAlias = Callable[..., AbstractAsyncContextManager[httpx2.AsyncClient]]


def run(
    serve: Serve, work: Callable[[httpx2.AsyncClient], Awaitable[None]], **options: Any
) -> None:
    """Call `work` with a client of a server that has these options."""

    async def with_server() -> None:
        async with serve(**options) as client:
            await work(client)

    asyncio.run(with_server())


def openai_of(client: httpx2.AsyncClient) -> AsyncOpenAI:
    return AsyncOpenAI(
        api_key="none", base_url="http://localhost/v1", http_client=client, max_retries=0
    )


async def ask(client: httpx2.AsyncClient, **body: Any) -> Completion:
    """A completion, read strictly: no field may be of another type than OpenAI's client says.

    It says that no log-probability is null, but the first of an echo always is: here it is 0.
    """
    body = {"model": "small", "prompt": PROMPT} | body
    answer = await client.post("/v1/completions", json=body)
    assert answer.status_code == 200, answer.text
    text = answer.text
    if body.get("echo") and body.get("logprobs") is not None:
        for name, instead in (("token_logprobs", "0.0"), ("top_logprobs", "{}")):
            assert f'"{name}":[null' in text
            text = text.replace(f'"{name}":[null', f'"{name}":[{instead}')
    read = Completion.model_validate_json(text, strict=True)
    assert set(answer.json()) == set(Completion.model_fields)  # nothing is missing or unknown
    return read


def greedy(model: GPT, tokenizer: BPETokenizer, prompt: list[int], n: int) -> list[int]:
    """Up to n likeliest ids after the prompt, until one that ends a text."""
    ids = list(prompt)
    with torch.no_grad():
        while len(ids) < len(prompt) + n:
            token = int(model(torch.tensor([ids]))[0, -1, : tokenizer.n_vocab].argmax())
            if token in tokenizer.stop_tokens:
                break
            ids.append(token)
    return ids[len(prompt) :]


def logprobs(model: GPT, ids: list[int]) -> torch.Tensor:
    """Row t is what is expected after ids[: t + 1], in nats."""
    with torch.no_grad():
        return model(torch.tensor([ids]))[0].double().log_softmax(-1)
