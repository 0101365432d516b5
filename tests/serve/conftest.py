"""A small model of random weights, and clients for servers of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest
import torch
from served import Serve

from gptfast.model import GPT, ModelConfig
from gptfast.sample.engine import Engine
from gptfast.serve.app import Service
from gptfast.serve.limits import Limits
from gptfast.tokenizer import BPETokenizer
from gptfast.tokenizer.chat import ChatTemplate

SPECIAL = ("<|endoftext|>", "<|user|>", "<|assistant|>")
TEMPLATE = (
    "{% for m in messages %}<|{{ 'user' if m.role != 'assistant' else 'assistant' }}|>"
    "{{ m.content }}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@pytest.fixture(scope="session")
def tokenizer(nursery_text: str) -> BPETokenizer:
    return BPETokenizer.train([nursery_text], 320, special_tokens=SPECIAL, progress=False)


@pytest.fixture(scope="session")
def model(tokenizer: BPETokenizer) -> GPT:
    """Its logits depend on the context, and its texts do not repeat themselves soon."""
    torch.manual_seed(0)
    gpt = GPT(ModelConfig(tokenizer.n_vocab, "gpt", 64, 2, 2, 32)).eval()
    with torch.no_grad():
        for parameter in gpt.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return gpt


@pytest.fixture
def service(model: GPT, tokenizer: BPETokenizer) -> Callable[..., Service]:
    def make(
        chat: bool = False, n_slots: int = 4, max_waiting: int = 32, **options: Any
    ) -> Service:
        sizes = {k: options.pop(k) for k in ("body_bytes", "body_seconds") if k in options}
        return Service(
            model,
            Engine(model, tokenizer, n_slots=n_slots, max_waiting=n_slots),
            tokenizer,
            "small",
            Limits(model.config.block_size, n_slots, max_waiting, **sizes),
            ChatTemplate(TEMPLATE, tokenizer) if chat else None,
            **options,
        )

    return make


@pytest.fixture
def serve(service: Callable[..., Service]) -> Serve:
    """`async with serve(chat=True) as client` runs a server within this process."""

    @asynccontextmanager
    async def run(**options: Any) -> AsyncIterator[httpx2.AsyncClient]:
        app = service(**options).app()
        async with app.router.lifespan_context(app):
            transport = httpx2.ASGITransport(app)
            async with httpx2.AsyncClient(
                transport=transport, base_url="http://localhost"
            ) as client:
                yield client

    return run
