"""Answer a request for text: as one JSON object, or as a stream of server-sent events."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any, Protocol, TypeVar

from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from gptfast.sample.request import Generation, Request
from gptfast.serve.asked import Asked
from gptfast.serve.errors import ApiError
from gptfast.serve.jobs import ClientGone, Job, Runner, Update, attended

T = TypeVar("T")
MANY_TOKENS = 256
"""An answer about more tokens is spelled in another thread."""


class Shape(Protocol):
    """How an endpoint spells its answers."""

    asked: Asked
    requests: Sequence[Request]
    n_drawn: int
    """Continuations of each prompt that are generated."""
    whole_object: str
    chunk_object: str
    id_prefix: str

    def choices(self, generations: Sequence[Generation]) -> list[dict[str, Any]]:
        """Return the choices of a whole answer, from the continuations in order."""

    def first_chunks(self) -> Iterable[dict[str, Any]]:
        """Return the choices that a stream begins with."""

    def chunks(self, update: Update) -> Iterable[dict[str, Any]]:
        """Return the choices that tell of an update."""


class Reply:
    """An ASGI application that generates, answers, and stops when the client leaves."""

    def __init__(self, shape: Shape, runner: Runner, model: str, fingerprint: str) -> None:
        self._shape, self._runner = shape, runner
        self._head = {
            "id": f"{shape.id_prefix}-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": fingerprint,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer. Raises ApiError before the first byte, so that the client gets its status."""
        shape = self._shape
        job = Job(shape.requests, shape.n_drawn, shape.asked.is_streamed)
        try:
            async with attended(job, self._runner, receive):
                if shape.asked.is_streamed:
                    await self._stream(job, send)
                else:
                    ended = {u.index: u.generation async for u in job.updates() if u.has_ended}
                    generations = [ended[index] for index in sorted(ended)]
                    answer = await self._aside(generations, lambda: self._whole(generations))
                    await answer(scope, receive, send)
        except ClientGone:
            scope["client_gone"] = True

    def _whole(self, generations: Sequence[Generation]) -> JSONResponse:
        answer = {
            **self._head,
            "object": self._shape.whole_object,
            "choices": self._shape.choices(generations),
            "usage": self._usage(generations),
        }
        return JSONResponse(answer)

    async def _aside(self, generations: Sequence[Generation], spell: Callable[[], T]) -> T:
        """Return what `spell` makes of the texts. A large answer is spelled in another thread."""
        n_tokens = 0
        for generation in generations:
            request = generation.request
            n_tokens += len(generation.ids) + len(request.prompt) * request.prompt_logprobs
        return await asyncio.to_thread(spell) if n_tokens > MANY_TOKENS else spell()

    async def _stream(self, job: Job, send: Send) -> None:
        headers = [
            (b"content-type", b"text/event-stream; charset=utf-8"),
            (b"cache-control", b"no-cache"),
            (b"x-accel-buffering", b"no"),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        async with aclosing(self._events(job)) as events:
            async for event in events:
                body = f"data: {event}\n\n".encode()
                await send({"type": "http.response.body", "body": body, "more_body": True})
                await asyncio.sleep(0)  # so that others have their turn, and a lost client is seen
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _events(self, job: Job) -> AsyncGenerator[str, None]:
        ended: list[Generation] = []
        usage = {"usage": None} if self._shape.asked.with_usage else {}
        head = {**self._head, "object": self._shape.chunk_object}
        for choice in self._shape.first_chunks():
            yield _json({**head, "choices": [choice], **usage})
        try:
            async for update in job.updates():
                with_prompt = [update.generation] if update.generation.prompt_logprobs else []
                chunks = partial(self._chunks, update, {**head, **usage})
                for event in await self._aside(with_prompt, chunks):
                    yield event
                if update.has_ended:
                    ended.append(update.generation)
        except ApiError as error:  # its status can't be sent any more
            yield _json(error.body())
            return
        if usage:
            yield _json({**head, "choices": [], "usage": self._usage(ended)})
        yield "[DONE]"

    def _chunks(self, update: Update, head: dict[str, Any]) -> list[str]:
        return [_json({**head, "choices": [choice]}) for choice in self._shape.chunks(update)]

    def _usage(self, generations: Sequence[Generation]) -> dict[str, int]:
        """Count each prompt once, and everything that was generated."""
        n_prompt = sum(len(request.prompt) for request in self._shape.requests)
        n_written = sum(len(generation.ids) for generation in generations)
        return {
            "prompt_tokens": n_prompt,
            "completion_tokens": n_written,
            "total_tokens": n_prompt + n_written,
        }


def _json(value: object) -> str:
    # Line separators of Unicode are escaped, because some readers of events end a line at them.
    return json.dumps(value, separators=(",", ":"))
